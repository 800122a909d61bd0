// Vocabularies that the tokeniser tests share.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/gguf.h"
#include "token/tokenizer.h"
#include "token/utf8.h"

namespace herd::token_test {

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

inline std::string data_path(std::string_view name) {
  return std::string(HERD_TEST_DATA) + "/" + std::string(name);
}

/// The tokeniser of what `writer` holds.
inline Result<TokenizerPtr> build(const gguf::Writer& writer) {
  const auto bytes = writer.to_bytes();
  if (!bytes) return bytes.error();
  const auto file = gguf::parse(*bytes);
  if (!file) return file.error();
  return Tokenizer::from_gguf(*file);
}

inline TokenizerPtr must(Result<TokenizerPtr> result) {
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  return result.ok() ? *result : nullptr;
}

/// A vocabulary file, with tokenizer.ggml.pre replaced unless `pre` is empty.
inline TokenizerPtr load(std::string_view name, std::string_view pre = {}) {
  const auto file = gguf::open(data_path(name));
  EXPECT_TRUE(file.ok()) << (file.ok() ? "" : file.error().message);
  if (!file) return nullptr;
  if (pre.empty()) return must(Tokenizer::from_gguf(*file));
  gguf::Writer writer;
  for (const gguf::KeyValue& entry : file->metadata())
    if (entry.key != "tokenizer.ggml.pre") writer.add(entry.key, entry.value);
  writer.add("tokenizer.ggml.pre", pre);
  return must(build(writer));
}

inline const TokenizerPtr& smollm() {
  static const TokenizerPtr tokenizer = load("smollm2-vocab.gguf");
  return tokenizer;
}

inline const TokenizerPtr& tiny_spm() {
  static const TokenizerPtr tokenizer = load("tiny-spm-vocab.gguf");
  return tokenizer;
}

inline nlohmann::json read_json(std::string_view name) {
  std::ifstream in(data_path(name));
  EXPECT_TRUE(in.good()) << name;
  return nlohmann::json::parse(in);
}

/// A vocabulary put together by hand. Fields may be spoilt before build().
struct HandVocabulary {
  std::string model = "gpt2", pre = "gpt-2";
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<float> scores;
  std::vector<std::string> merges;
  bool with_types = true, with_scores = true, with_merges = true, with_pre = true;
  std::vector<std::pair<std::string, std::uint32_t>> ids;
  std::vector<std::pair<std::string, bool>> flags;

  void add(std::string token, std::int32_t type = 1, float score = 0) {
    tokens.push_back(std::move(token));
    types.push_back(type);
    scores.push_back(score);
  }

  gguf::Writer writer() const {
    gguf::Writer w;
    w.add("general.architecture", "llama");
    w.add("tokenizer.ggml.model", model);
    if (with_pre) w.add("tokenizer.ggml.pre", pre);
    w.add("tokenizer.ggml.tokens", std::span<const std::string>(tokens));
    if (with_types) w.add("tokenizer.ggml.token_type", std::span<const std::int32_t>(types));
    if (model == "llama" && with_scores)
      w.add("tokenizer.ggml.scores", std::span<const float>(scores));
    if (model == "gpt2" && with_merges)
      w.add("tokenizer.ggml.merges", std::span<const std::string>(merges));
    for (const auto& [key, id] : ids) w.add("tokenizer.ggml." + key, id);
    for (const auto& [key, flag] : flags) w.add("tokenizer.ggml." + key, flag);
    return w;
  }
};

/// Byte-level BPE with all 256 bytes (ids 0 to 255), "<|im_end|>" (control), "##" (user-defined)
/// and the words "he", "ll", "hell", "hello".
inline HandVocabulary byte_vocabulary() {
  HandVocabulary v;
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
    std::string token;
    utf8::append(token, printable ? b : next++);
    v.add(token);
  }
  v.add("<|im_end|>", 3);
  v.add("##", 4);
  for (const char* token : {"he", "ll", "hell", "hello"}) v.add(token);
  v.merges = {"h e", "l l", "he ll", "hell o"};
  v.ids = {{"bos_token_id", 256}, {"eos_token_id", 256}};
  return v;
}

/// SentencePiece with <unk> <s> </s>, byte tokens (ids 3 to 258) and a few pieces.
inline HandVocabulary spm_vocabulary() {
  HandVocabulary v;
  v.model = "llama";
  v.with_pre = false;
  v.add("<unk>", 2);
  v.add("<s>", 3);
  v.add("</s>", 3);
  for (int b = 0; b < 256; ++b) {
    constexpr char kHex[] = "0123456789ABCDEF";
    v.add(std::string("<0x") + kHex[b / 16] + kHex[b % 16] + ">", 6);
  }
  v.add("\u2581", 1, -10);
  v.add("a", 1, -11);
  v.add("b", 1, -12);
  v.add("ab", 1, -1);
  v.add("ba", 1, -1);
  v.add("\u2581a", 1, -2);
  v.ids = {{"bos_token_id", 1}, {"eos_token_id", 2}, {"unknown_token_id", 0}};
  return v;
}

inline std::string show(std::span<const TokenId> ids) {
  std::string out;
  for (const TokenId id : ids) out += std::to_string(id) + " ";
  return out;
}

}  // namespace herd::token_test
