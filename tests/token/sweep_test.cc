// Damage to the header of whole tiny models, taken as far as a tokeniser: it works or it is a typed
// error of one line. The parser alone has the same sweep in tests/gguf.
#include <gtest/gtest.h>

#include "token/token_fixtures.h"

namespace herd {
namespace {

using token_test::data_path;

std::vector<std::byte> load_bytes(std::string_view name) {
  std::ifstream in(data_path(name), std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// Whether `bytes` gave a tokeniser; one that did must encode, and spell every token.
bool works(std::span<const std::byte> bytes) {
  const auto file = gguf::parse(bytes);
  if (!file) return false;
  const auto built = Tokenizer::from_gguf(*file);
  if (!built.ok()) {
    EXPECT_NE(built.error().code, Code::internal);
    EXPECT_FALSE(built.error().message.empty());
    EXPECT_EQ(built.error().message.find('\n'), std::string::npos) << built.error().message;
    return false;
  }
  const Tokenizer& t = **built;
  const auto ids = t.encode("The 2 dogs\n <|im_end|></s> \xC3\xA9\xFF", {.add_bos = true});
  for (const TokenId id : ids) EXPECT_TRUE(id >= 0 && id < t.vocab_size());
  EXPECT_TRUE(t.decode(ids, true).ok());
  for (TokenId id = 0; id < t.vocab_size(); ++id) (void)t.piece(id, true);
  return true;
}

void sweep(std::string_view name) {
  std::vector<std::byte> bytes = load_bytes(name);
  ASSERT_TRUE(works(bytes));
  std::size_t end = bytes.size();
  const auto file = gguf::parse(bytes);
  for (const gguf::TensorInfo& tensor : file->tensors())
    end = std::min(end, static_cast<std::size_t>(tensor.offset));
  std::size_t refused = 0;
  for (std::size_t at = 0; at < end; ++at)
    for (int bit = 0; bit < 8; ++bit) {
      bytes[at] ^= std::byte{1} << bit;
      if (!works(bytes)) ++refused;
      bytes[at] ^= std::byte{1} << bit;
    }
  EXPECT_GT(refused, end);  // a loader that believed everything would refuse few
}

TEST(TokenSweep, EveryFlippedMetadataBitOfABpeModel) {
  sweep("tiny-gqa-Q2_K.gguf");
}
TEST(TokenSweep, EveryFlippedMetadataBitOfASentencePieceModel) {
  sweep("tiny-mha-Q4_K_M.gguf");
}

}  // namespace
}  // namespace herd
