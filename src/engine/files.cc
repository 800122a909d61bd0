// The public doors to what a file holds: its vocabulary, its summary, and random ones.
#include <fmt/format.h>

#include "gguf/inspect.h"
#include "herd/inspect.h"
#include "herd/make_model.h"
#include "herd/vocabulary.h"
#include "model/make_model.h"
#include "token/tokenizer.h"

namespace herd {

Vocabulary::Vocabulary(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

Result<Vocabulary> Vocabulary::from_gguf(const std::string& path) {
  const auto file = gguf::open(path);
  if (!file.ok()) return file.error();
  auto tokenizer = Tokenizer::from_gguf(*file);
  if (!tokenizer.ok())
    return Error{tokenizer.error().code, path + ": " + tokenizer.error().message};
  return Vocabulary(std::move(*tokenizer));
}

std::vector<TokenId> Vocabulary::encode(std::string_view text, bool add_bos,
                                        bool parse_special) const {
  return tokenizer_->encode(text, {.add_bos = add_bos, .parse_special = parse_special});
}
Result<std::string> Vocabulary::decode(std::span<const TokenId> ids, bool special) const {
  return tokenizer_->decode(ids, special);
}
std::string Vocabulary::piece(TokenId id) const {
  return tokenizer_->piece(id, true);
}
std::int32_t Vocabulary::size() const {
  return tokenizer_->vocab_size();
}
bool Vocabulary::adds_bos() const {
  return tokenizer_->adds_bos();
}

Result<FileSummary> inspect_file(const std::string& path) {
  constexpr std::size_t kItems = 8;
  const auto file = gguf::open(path);
  if (!file.ok()) return file.error();
  FileSummary out;
  out.version = file->version();
  out.file_bytes = file->file_bytes();
  for (const gguf::KeyValue& pair : file->metadata()) {
    std::string type(gguf::to_string(pair.value.type));
    if (pair.value.type == gguf::ValueType::array)
      type = fmt::format("{}[{}]", gguf::to_string(pair.value.element), pair.value.array_size());
    out.metadata.push_back({pair.key, std::move(type), gguf::summarize(pair.value, kItems),
                            gguf::to_json(pair.value)});
  }
  for (const gguf::TensorInfo& t : file->tensors())
    out.tensors.push_back(
        {t.name, std::string(quant::type_info(t.type).name), t.shape, t.bytes, t.offset, t.part});
  return out;
}

std::vector<std::string_view> random_model_shapes() {
  return made_shapes();
}
std::vector<std::string_view> random_model_types() {
  return made_recipes();
}

Status write_random_model(std::string_view shape, std::string_view type, std::uint64_t seed,
                          const std::string& path, const ProgressFn& progress) {
  return make_model(shape, type, seed, path, progress);
}

}  // namespace herd
