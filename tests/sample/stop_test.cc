#include "sample/stop.h"

#include <gtest/gtest.h>

#include <random>

namespace herd {
namespace {

constexpr std::uint32_t kSeed = 99;

struct Outcome {
  std::string text;
  int match = -1;
  bool operator==(const Outcome&) const = default;
};

// The slow twin: looks at every end, and there at every stop string.
Outcome slow(const std::vector<std::string>& stops, const std::string& text) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (std::size_t i = 0; i < stops.size(); ++i)
      if (std::string_view(text).substr(0, end).ends_with(stops[i]) &&
          (best < 0 || stops[i].size() > stops[static_cast<std::size_t>(best)].size()))
        best = static_cast<int>(i);
    if (best >= 0)
      return {text.substr(0, end - stops[static_cast<std::size_t>(best)].size()), best};
  }
  return {text, -1};
}

// The longest tail of `text` that begins a stop string.
std::size_t slow_held(const std::vector<std::string>& stops, std::string_view text) {
  for (std::size_t n = text.size(); n > 0; --n)
    for (const std::string& stop : stops)
      if (stop.size() > n && stop.starts_with(text.substr(text.size() - n))) return n;
  return 0;
}

// Pushes text cut before each byte whose bit is set in `cuts`.
Outcome pushed(const std::vector<std::string>& stops, const std::string& text, std::uint32_t cuts) {
  StopMatcher matcher(stops);
  std::string all;
  std::size_t first = 0;
  for (std::size_t i = 1; i <= text.size(); ++i) {
    if (i < text.size() && !((cuts >> (i % 32)) & 1u)) continue;
    all += matcher.push(std::string_view(text).substr(first, i - first));
    if (!matcher.matched()) {
      EXPECT_EQ(matcher.held(), slow_held(stops, std::string_view(text).substr(0, i)));
      EXPECT_EQ(all.size() + matcher.held(), i);
    }
    first = i;
  }
  all += matcher.finish();
  EXPECT_EQ(matcher.held(), 0u);
  return {all, matcher.match()};
}

TEST(StopMatcher, EverySplitOfTheText) {
  const std::vector<std::string> stops = {"</s>", "ab", "xabc", "\n\nQ"};
  for (const std::string text :
       {"hi <//s></s>no", "xxab then", "a\n\n\nQ: b", "plain <text>", "xa</"})
    for (std::uint32_t cuts = 0; cuts < (1u << text.size()); ++cuts)
      ASSERT_EQ(pushed(stops, text, cuts), slow(stops, text)) << text << " cuts " << cuts;
}

TEST(StopMatcher, KnownAnswers) {
  EXPECT_EQ(pushed({"END"}, "one ENEND two", ~0u), (Outcome{"one EN", 0}));
  EXPECT_EQ(pushed({"bc", "abc"}, "zabcd", ~0u), (Outcome{"z", 1}));  // end together: the longest
  EXPECT_EQ(pushed({"abc", "b"}, "zabc", ~0u), (Outcome{"za", 1}));   // ends first
  EXPECT_EQ(pushed({"aab"}, "aaaab", ~0u), (Outcome{"aa", 0}));
  EXPECT_EQ(pushed({"stop"}, "almost sto", ~0u), (Outcome{"almost sto", -1}));
  EXPECT_EQ(pushed({}, "anything", ~0u), (Outcome{"anything", -1}));
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBeAStop) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("go ST"), "go ");
  EXPECT_EQ(matcher.held(), 2u);
  EXPECT_EQ(matcher.push("S"), "ST");
  EXPECT_EQ(matcher.push("TOP more"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.push("later"), "");
  EXPECT_EQ(matcher.finish(), "");
  matcher.reset();
  EXPECT_EQ(matcher.push("TOP"), "TOP");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcher, RandomTextsMatchTheSlowTwin) {
  std::mt19937 random(kSeed);
  const auto word = [&](std::size_t longest) {
    std::string s(1 + random() % longest, 'a');
    for (char& c : s) c = static_cast<char>('a' + random() % 2);
    return s;
  };
  for (int i = 0; i < 5000; ++i) {
    std::vector<std::string> stops(1 + random() % 4);
    for (std::string& stop : stops) stop = word(9);
    const std::string text = word(40);
    const auto cuts = static_cast<std::uint32_t>(random());
    ASSERT_EQ(pushed(stops, text, cuts), slow(stops, text)) << "seed " << kSeed << " case " << i;
  }
}

TEST(StopMatcher, LongHeldTextStaysLinear) {
  StopMatcher matcher({std::string(100000, 'a') + "b"});
  std::size_t out = 0;
  for (int i = 0; i < 1000000; ++i) out += matcher.push("a").size();
  EXPECT_EQ(out, 900000u);
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_TRUE(matcher.matched());
}

TEST(ValidateStops, RefusesTheEmptyString) {
  EXPECT_TRUE(validate_stops({}).ok());
  const std::vector<std::string> stops = {"a", ""};
  const Status status = validate_stops(stops);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Code::invalid_argument);
  EXPECT_NE(status.error().message.find("stop string 1 of 2 is empty"), std::string::npos);
}

}  // namespace
}  // namespace herd
