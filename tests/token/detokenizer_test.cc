#include <gtest/gtest.h>

#include <random>

#include "token/token_fixtures.h"

namespace herd {
namespace {

using namespace token_test;

/// Invalid bytes replaced, maximal well-formed prefixes at a time.
std::string replaced(std::string_view bytes) {
  std::string out;
  for (std::size_t pos = 0; pos < bytes.size();) {
    const utf8::CodePoint point = utf8::decode(bytes, pos);
    utf8::append(out, point.value);
    pos += point.bytes;
  }
  return out;
}

std::string stream(const TokenizerPtr& tokenizer, std::span<const TokenId> ids) {
  Detokenizer detokenizer(tokenizer);
  std::string text;
  for (const TokenId id : ids) {
    const std::string ready = detokenizer.push(id);
    EXPECT_EQ(replaced(ready), ready) << "not whole UTF-8";
    text += ready;
  }
  return text + detokenizer.flush();
}

// Each of these ids is one byte, so that every split of every character is tried.
TEST(Detokenizer, HoldsBackUnfinishedCharacters) {
  const auto t = must(build(byte_vocabulary().writer()));
  const std::string text = "a\u00E9\u4E2D\U0001F600z";
  Detokenizer detokenizer(t);
  std::vector<std::string> steps;
  for (const TokenId id : t->encode(text, {})) steps.push_back(detokenizer.push(id));
  const std::vector<std::string> wanted = {"a", "", "\u00E9", "",           "", "\u4E2D",
                                           "",  "", "",       "\U0001F600", "z"};
  EXPECT_EQ(steps, wanted);
  EXPECT_EQ(detokenizer.flush(), "");
}

TEST(Detokenizer, AnyBytesAnyTokenizer) {
  const auto bpe = must(build(byte_vocabulary().writer()));
  for (std::uint32_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::string bytes;
    for (std::size_t n = random() % 20; n > 0; --n) {
      if (random() % 2 == 0)
        bytes.push_back(static_cast<char>(random()));
      else
        utf8::append(bytes, 0x10000 + static_cast<char32_t>(random() % 0x1000));
      if (random() % 4 == 0) bytes.resize(bytes.size() - 1);
    }
    ASSERT_EQ(stream(bpe, bpe->encode(bytes, {})), replaced(bytes));
    const auto ids = tiny_spm()->encode(bytes, {});
    ASSERT_EQ(stream(tiny_spm(), ids), replaced(*tiny_spm()->decode(ids)));
  }
}

TEST(Detokenizer, InvalidBytesBecomeReplacements) {
  const auto t = must(build(byte_vocabulary().writer()));
  EXPECT_EQ(stream(t, t->encode("\xE4\xB8!", {})), "\uFFFD!");
  EXPECT_EQ(stream(t, t->encode("\xED\xA0\x80", {})), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(stream(t, t->encode("\xC0\xAF", {})), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(stream(t, t->encode("\xE0\x80\x80", {})), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(stream(t, t->encode("\xF0\x8F\xBF\xBF", {})), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(stream(t, t->encode("\xF4\x90\x80\x80", {})), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(stream(t, t->encode("\xF5!", {})), "\uFFFD!");
  EXPECT_EQ(stream(t, t->encode("\xF0\x9F\x98", {})), "\uFFFD");  // never finished
}

TEST(Detokenizer, DropsTheSpacePrefixOnceAndOnlyAtTheStart) {
  const auto& t = tiny_spm();
  const auto ids = t->encode("the the", {.add_bos = true});
  EXPECT_EQ(stream(t, ids), "the the");
  Detokenizer going_on(t, false, /*at_start=*/false);
  EXPECT_EQ(going_on.push(t->encode("the", {})[0]), " the");
  EXPECT_EQ(stream(t, t->encode("  the", {})), "  the");
}

TEST(Detokenizer, SpecialTokensWhenAsked) {
  Detokenizer shown(smollm(), true), hidden(smollm());
  EXPECT_EQ(shown.push(2), "<|im_end|>");
  EXPECT_EQ(hidden.push(2), "");
}

TEST(Decode, UnknownIdsAreRefused) {
  const std::vector<TokenId> high = {1, 49152}, low = {-1};
  ASSERT_FALSE(smollm()->decode(high).ok());
  EXPECT_EQ(smollm()->decode(high).error().code, Code::out_of_range);
  EXPECT_EQ(smollm()->decode(high).error().message,
            "ids[1] is 49152; the vocabulary's ids are 0 to 49151");
  EXPECT_FALSE(smollm()->decode(low).ok());
}

}  // namespace
}  // namespace herd
