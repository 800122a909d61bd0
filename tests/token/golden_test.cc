// Ids equal to those of the vocabularies' own libraries.
#include <gtest/gtest.h>

#include "token/token_fixtures.h"

namespace herd {
namespace {

using namespace token_test;

void expect_ids(const Tokenizer& tokenizer, const nlohmann::json& cases) {
  ASSERT_GT(cases.size(), 0u);
  for (const auto& entry : cases) {
    const auto text = entry.at("text").get<std::string>();
    const auto wanted = entry.at("ids").get<std::vector<TokenId>>();
    const auto ids = tokenizer.encode(text, {});
    ASSERT_EQ(show(ids), show(wanted)) << "text: " << entry.at("text").dump();
  }
}

TEST(Golden, SmolLm2) {
  expect_ids(*smollm(), read_json("tokens-smollm2.json"));
}

TEST(Golden, SentencePiece) {
  expect_ids(*tiny_spm(), read_json("tokens-tiny-mha-spm.json"));
  expect_ids(*tiny_spm(), read_json("tokens-spm-more.json"));
}

TEST(Golden, EveryPreTokenizer) {
  const auto cases = read_json("tokens-pretokenizers.json");
  ASSERT_EQ(cases.size(), 14u);
  for (const auto& [pre, texts] : cases.items()) {
    SCOPED_TRACE(pre);
    expect_ids(*load("smollm2-vocab.gguf", pre), texts);
  }
}

TEST(Golden, AliasesMeanTheSame) {
  const std::string text = "It'S 12345 IIb\n\n  x '/' \u00BD\u0301e\u0301";
  const std::vector<std::vector<std::string>> groups = {
      {"llama-bpe", "llama3", "llama-v3"}, {"smollm", "starcoder", "refact"}, {"gpt-4o", "llama4"}};
  for (const auto& group : groups) {
    const auto wanted = load("smollm2-vocab.gguf", group[0])->encode(text, {});
    for (const auto& name : group)
      EXPECT_EQ(show(load("smollm2-vocab.gguf", name)->encode(text, {})), show(wanted)) << name;
  }
}

// (?i:'s) takes the long s too, as Unicode case folding has it.
TEST(Golden, LongSIsAContraction) {
  HandVocabulary v = byte_vocabulary();
  v.pre = "llama-bpe";
  v.add("'\u00C5\u00BFx");  // the bytes of 'ſx as one token: taken only if that is one word
  const auto ids = must(build(v.writer()))->encode("'\u017Fx", {});
  EXPECT_EQ(show(ids), show(std::vector<TokenId>{0x27, 0xC5, 0xBF, 'x'}));
}

}  // namespace
}  // namespace herd
