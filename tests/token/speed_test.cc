// Guards, not measurements: generous enough for sanitizers, far too tight for quadratic time.
#include <gtest/gtest.h>

#include <chrono>

#include "token/token_fixtures.h"

namespace herd {
namespace {

using namespace token_test;

constexpr std::size_t kMegabyte = std::size_t{1} << 20;

std::string repeated(std::string_view unit, std::size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  const auto ids = tokenizer.encode(text, {});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_TRUE(*tokenizer.decode(ids, true) == text);  // no dump of a megabyte
  return took.count();
}

TEST(Speed, OneMegabyteOfProse) {
  const std::string text = repeated(
      "The licensee may copy, modify and convey verbatim copies of the program's source code, "
      "in 1991 or later; you don't have to.\nEach  version is given a distinguishing number: ",
      kMegabyte);
  for (const auto& tokenizer : {smollm(), tiny_spm(), load("smollm2-vocab.gguf", "gpt-4o")})
    EXPECT_FALSE(!(seconds_to_encode(*tokenizer, text) <= 3.0));
}

TEST(Speed, NoQuadraticTime) {
  HandVocabulary crossing = spm_vocabulary();  // a token across words: no cutting at spaces
  crossing.add("a\u2581b", 1, -3);
  const std::vector<TokenizerPtr> tokenizers = {smollm(),
                                                tiny_spm(),
                                                load("smollm2-vocab.gguf", "llama-bpe"),
                                                load("smollm2-vocab.gguf", "tekken"),
                                                load("smollm2-vocab.gguf", "deepseek-v3"),
                                                must(build(crossing.writer()))};
  for (const char* unit : {"a", "thequickbrown", " ", "\n ", "a b", "<|im_", "1", "\u4E2D",
                           "\u8A9EA", "\x80", "'", "\u0301"}) {
    const std::string text = repeated(unit, kMegabyte / 4);
    for (std::size_t i = 0; i < tokenizers.size(); ++i)
      EXPECT_FALSE(!(seconds_to_encode(*tokenizers[i], text) <= 4.0)) << unit << " " << i;
  }
}

}  // namespace
}  // namespace herd
