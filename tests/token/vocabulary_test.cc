// Metadata: defaults, end-of-text tokens, and errors that name the key, the value and the limit.
#include "token/vocabulary.h"

#include <gtest/gtest.h>

#include <limits>

#include "token/token_fixtures.h"

namespace herd {
namespace {

using namespace token_test;

void expect_error(const HandVocabulary& v, Code code, const std::vector<std::string>& parts) {
  const auto built = build(v.writer());
  ASSERT_FALSE(built.ok());
  EXPECT_EQ(built.error().code, code) << built.error().message;
  EXPECT_EQ(built.error().message.find('\n'), std::string::npos);
  for (const auto& part : parts)
    EXPECT_NE(built.error().message.find(part), std::string::npos)
        << "\"" << part << "\" is not in: " << built.error().message;
}

TEST(Vocabulary, SmolLm2) {
  const auto& t = smollm();
  EXPECT_EQ(t->vocab_size(), 49152);
  EXPECT_EQ(t->bos(), 1);
  EXPECT_EQ(t->eos(), 2);
  EXPECT_FALSE(t->adds_bos());
  EXPECT_FALSE(t->adds_space());
  EXPECT_TRUE(t->ends_text(2));   // <|im_end|>
  EXPECT_TRUE(t->ends_text(0));   // <|endoftext|>
  EXPECT_FALSE(t->ends_text(1));  // <|im_start|>
  EXPECT_TRUE(t->is_control(1));
  EXPECT_FALSE(t->is_control(17));
  EXPECT_EQ(t->token(0), "<|endoftext|>");
  EXPECT_EQ(show(t->encode("", {.add_bos = true})), "1 ");
}

TEST(Vocabulary, SentencePieceDefaults) {
  EXPECT_TRUE(tiny_spm()->adds_bos());
  EXPECT_TRUE(tiny_spm()->adds_space());
  HandVocabulary v = spm_vocabulary();
  v.ids.clear();
  v.with_types = false;  // old files: known by their spelling
  const auto t = must(build(v.writer()));
  EXPECT_EQ(t->bos(), 1);
  EXPECT_EQ(t->eos(), 2);
  EXPECT_TRUE(t->adds_bos());
  EXPECT_TRUE(t->adds_space());
  EXPECT_TRUE(t->ends_text(2));
  EXPECT_EQ(show(t->encode("a\n<s>", {})), show(std::vector<TokenId>{264, 13, 1}));
}

TEST(Vocabulary, BosByPreTokenizerAndByFile) {
  HandVocabulary v = byte_vocabulary();
  EXPECT_FALSE(must(build(v.writer()))->adds_bos());
  v.pre = "llama-bpe";
  EXPECT_TRUE(must(build(v.writer()))->adds_bos());
  v.flags = {{"add_bos_token", false}};
  EXPECT_FALSE(must(build(v.writer()))->adds_bos());
  v.pre = "gpt-2";
  v.flags = {{"add_bos_token", true}};
  EXPECT_TRUE(must(build(v.writer()))->adds_bos());
}

TEST(Vocabulary, WholeWordsOfLlama3) {
  HandVocabulary v = byte_vocabulary();
  v.add("lo");
  v.add("hero");  // a token that no merge makes
  EXPECT_EQ(show(must(build(v.writer()))->encode("hero", {})), "258 114 111 ");
  v.pre = "llama-bpe";
  EXPECT_EQ(show(must(build(v.writer()))->encode("hero", {})), "263 ");
}

TEST(Vocabulary, EndTokens) {
  HandVocabulary v = byte_vocabulary();
  v.add("<|eot_id|>", 3);     // 262
  v.add("<|end|>", 1);        // 263: an ordinary token
  v.add("<end_of_turn>", 4);  // 264
  v.add("stop", 3);           // 265
  v.ids.push_back({"eom_token_id", 265});
  const auto t = must(build(v.writer()));
  std::vector<TokenId> ends;
  for (TokenId id = 0; id < t->vocab_size(); ++id)
    if (t->ends_text(id)) ends.push_back(id);
  EXPECT_EQ(show(ends), "256 262 264 265 ");
  EXPECT_TRUE(t->is_control(264));
  EXPECT_FALSE(t->is_control(263));
}

TEST(Vocabulary, EndTokensWithoutTypes) {
  HandVocabulary v = byte_vocabulary();
  v.with_types = false;
  EXPECT_TRUE(must(build(v.writer()))->ends_text(256));
}

TEST(Vocabulary, ChatTemplate) {
  HandVocabulary v = byte_vocabulary();
  gguf::Writer writer = v.writer();
  EXPECT_EQ(must(build(writer))->chat_template(), "");
  writer.add("tokenizer.chat_template", "{{ messages }}");
  EXPECT_EQ(must(build(writer))->chat_template(), "{{ messages }}");
}

TEST(BadVocabulary, UnknownKinds) {
  HandVocabulary v = byte_vocabulary();
  v.pre = "klingon";
  expect_error(v, Code::unsupported, {"tokenizer.ggml.pre", "klingon", "smollm", "llama-bpe"});
  v.model = "bert";
  expect_error(v, Code::unsupported, {"tokenizer.ggml.model", "bert", "llama, gpt2"});
  EXPECT_EQ(Tokenizer::from_gguf(gguf::File()).error().code, Code::not_found);
}

TEST(BadVocabulary, NothingRawFromTheFileInMessages) {
  const std::string text = "a\nb\x1b" + std::string(1000, 'c');
  const auto refuse = [](const HandVocabulary& v) {
    const auto built = build(v.writer());
    ASSERT_FALSE(built.ok());
    EXPECT_EQ(built.error().message.find_first_of("\n\x1b"), std::string::npos);
    EXPECT_NE(built.error().message.find("\"a\\x0ab\\x1bc"), std::string::npos);
    EXPECT_EQ(built.error().message.find(std::string(100, 'c')), std::string::npos);
  };
  HandVocabulary v = byte_vocabulary();
  v.model = text;
  refuse(v);
  v = byte_vocabulary();
  v.pre = text;
  refuse(v);
  v = byte_vocabulary();
  v.add(text);
  v.add(text);
  refuse(v);
  v.tokens.pop_back();
  v.types = std::vector<std::int32_t>(v.tokens.size(), 6);
  std::swap(v.tokens.front(), v.tokens.back());
  refuse(v);
  v = byte_vocabulary();
  v.merges.push_back(text);
  refuse(v);
  v.merges.back() += " d";
  refuse(v);
}

TEST(BadVocabulary, Ids) {
  for (const char* key : {"bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id"}) {
    HandVocabulary v = byte_vocabulary();
    v.ids = {{key, 262}};
    expect_error(v, Code::corrupt, {key, "262", "261"});
  }
  HandVocabulary v = byte_vocabulary();
  v.ids = {{"bos_token_id", std::numeric_limits<std::uint32_t>::max()}};
  expect_error(v, Code::corrupt, {"bos_token_id", "4294967295"});
  v.ids.clear();
  v.flags = {{"add_bos_token", true}};
  expect_error(v, Code::corrupt, {"add_bos_token", "bos_token_id"});
}

TEST(BadVocabulary, Arrays) {
  HandVocabulary types = byte_vocabulary();
  types.types.pop_back();
  expect_error(types, Code::corrupt, {"token_type", "261", "262"});
  types.types.push_back(7);
  expect_error(types, Code::corrupt, {"token_type", "7"});
  HandVocabulary scores = spm_vocabulary();
  scores.scores.push_back(0);
  expect_error(scores, Code::corrupt, {"scores", "266", "265"});
  scores.scores.pop_back();
  scores.scores[4] = std::numeric_limits<float>::quiet_NaN();
  expect_error(scores, Code::corrupt, {"scores[4]"});
  scores.with_scores = false;
  expect_error(scores, Code::not_found, {"tokenizer.ggml.scores"});
  HandVocabulary merges = byte_vocabulary();
  merges.with_merges = false;
  expect_error(merges, Code::not_found, {"tokenizer.ggml.merges"});
}

TEST(BadVocabulary, WrongTypes) {
  HandVocabulary v = byte_vocabulary();
  gguf::Writer writer;
  writer.add("tokenizer.ggml.model", "gpt2");
  writer.add("tokenizer.ggml.tokens", std::uint32_t{5});
  const auto built = build(writer);
  ASSERT_FALSE(built.ok());
  EXPECT_EQ(built.error().code, Code::corrupt);
  EXPECT_NE(built.error().message.find("tokenizer.ggml.tokens"), std::string::npos);
}

TEST(BadVocabulary, Tokens) {
  HandVocabulary v = byte_vocabulary();
  v.add("hello");
  expect_error(v, Code::corrupt, {"tokens[262]", "hello", "tokens[261]"});
  v.tokens.back() = std::string(65537, 'x');
  expect_error(v, Code::corrupt, {"tokens[262]", "65537", "65536"});
  v.tokens.back() = "not a byte";
  v.types.back() = 6;
  expect_error(v, Code::corrupt, {"tokens[262]", "not a byte", "<0x00>"});
  HandVocabulary none;
  expect_error(none, Code::corrupt, {"tokenizer.ggml.tokens", "0 tokens"});
}

TEST(BadVocabulary, Merges) {
  for (const char* merge : {"hello", "", " ", "he ", "he xyzzy", "o o"}) {
    HandVocabulary v = byte_vocabulary();
    v.merges.push_back(merge);
    expect_error(v, Code::corrupt, {"tokenizer.ggml.merges[4]", std::string("\"") + merge + "\""});
  }
}

TEST(Vocabulary, EmptyTokensAreToleratedAndNeverProduced) {
  for (HandVocabulary v : {byte_vocabulary(), spm_vocabulary()}) {
    for (const std::int32_t type : {1, 3, 4}) v.add("", type);
    const auto t = must(build(v.writer()));
    EXPECT_EQ(*t->decode(t->encode("hello ab\n", {})), "hello ab\n");
  }
}

TEST(Vocabulary, ByteTokens) {
  EXPECT_EQ(parse_byte_token("<0x0A>"), 10);
  EXPECT_EQ(parse_byte_token("<0xff>"), 255);
  for (const char* bad : {"", "<0x0>", "<0xGG>", "<0x0A", "<0x0A>>", "x0x0A>"})
    EXPECT_EQ(parse_byte_token(bad), -1) << bad;
}

}  // namespace
}  // namespace herd
