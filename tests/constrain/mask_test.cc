// Token masks: exactly the tokens after which the answer can still become what the schema says.
#include <algorithm>
#include <random>

#include "constrain/grammar.h"
#include "constrain/grammars.h"
#include "constrain/schema.h"
#include "schemas.h"

namespace herd::constrain {
namespace {

using test::Json;

constexpr TokenId kEnd = 0;

std::shared_ptr<const TokenTrie> vocabulary() {
  static const auto trie =
      std::make_shared<const TokenTrie>(test::small_vocabulary(), std::vector<TokenId>{kEnd});
  return trie;
}

std::shared_ptr<Grammar> grammar(const std::string& schema) {
  auto automaton = compile_schema(schema, vocabulary()->alphabet());
  if (!automaton.ok()) throw std::runtime_error(automaton.error().message + " in " + schema);
  return std::make_shared<Grammar>(*std::move(automaton), vocabulary());
}

std::vector<TokenId> ids_of(std::span<const std::uint64_t> mask) {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < vocabulary()->size(); ++id)
    if ((mask[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1) != 0) ids.push_back(id);
  return ids;
}

std::vector<TokenId> allowed(Constraint& c) {
  const auto mask = c.allowed(true);
  EXPECT_TRUE(mask.ok()) << mask.error().message;
  return mask.ok() ? ids_of(*mask) : std::vector<TokenId>{};
}

/// The same, one token at a time through the slow reader.
std::vector<TokenId> slow(test::SlowReader& reader, const std::string& text) {
  std::vector<TokenId> ids;
  if (reader.whole(text)) ids.push_back(kEnd);
  for (TokenId id = 1; id < vocabulary()->size(); ++id)
    if (reader.viable(text + vocabulary()->text(id))) ids.push_back(id);
  return ids;
}

std::string shown(const std::vector<TokenId>& ids) {
  std::string out;
  for (const TokenId id : ids) out += testing::PrintToString(vocabulary()->text(id)) + " ";
  return out;
}

/// A token that brings the end nearer, if `hurry`; else any.
TokenId choose(test::SchemaMaker& dice, const std::vector<TokenId>& ids, bool hurry) {
  const auto find = [&](const char* text) {
    return std::ranges::find(ids, text, [](TokenId id) { return vocabulary()->text(id); });
  };
  const bool in_string = find("zz zz") != ids.end();
  for (const char* text : {in_string ? "\"" : "", "", "}", "]", "\"", ":", ",", "0", "1", "n", "t"})
    if (hurry && find(text) != ids.end()) return *find(text);
  return ids[static_cast<std::size_t>(dice.roll(0, static_cast<int>(ids.size()) - 1))];
}

TEST(Mask, IsWhatTheSlowReaderSaysOnRandomSchemasAndWalks) {
  for (std::uint32_t seed = 0; seed < 120; ++seed) {
    test::SchemaMaker dice(seed);
    const Json schema = dice.root();
    SCOPED_TRACE(testing::Message() << "seed " << seed << " schema " << schema.dump());
    test::SlowReader reader(schema);
    const auto automaton = compile_schema(schema.dump(), vocabulary()->alphabet());
    if (!automaton.ok()) {  // it allows nothing; nothing may begin it
      EXPECT_EQ(automaton.error().code, Code::invalid_argument) << automaton.error().message;
      continue;
    }
    Constraint c(std::make_shared<Grammar>(*automaton, vocabulary()));
    std::string text;
    for (int steps = 0; !c.ended() && steps < 24; ++steps) {
      const auto ids = allowed(c), expected = slow(reader, text);
      ASSERT_EQ(ids, expected) << "after " << text << "\n" << shown(ids) << "\n" << shown(expected);
      ASSERT_FALSE(ids.empty()) << text;
      const TokenId id = choose(dice, ids, dice.roll(0, 3) == 0);
      ASSERT_TRUE(c.take(id).ok());
      if (id == kEnd) break;
      text += vocabulary()->text(id);
    }
  }
}

TEST(Mask, EveryWalkEndsInJsonThatTheSchemaAllows) {
  for (std::uint32_t seed = 1000; seed < 1600; ++seed) {
    test::SchemaMaker dice(seed);
    const Json schema = dice.root();
    SCOPED_TRACE(testing::Message() << "seed " << seed << " schema " << schema.dump());
    const auto automaton = compile_schema(schema.dump(), vocabulary()->alphabet());
    if (!automaton.ok()) continue;
    const auto shared = std::make_shared<Grammar>(*automaton, vocabulary());
    for (int walk = 0; walk < 3; ++walk) {
      Constraint c(shared);
      std::string text;
      int steps = 0;
      for (; !c.ended(); ++steps) {
        ASSERT_LT(steps, 2000) << text;
        const auto ids = allowed(c);
        ASSERT_FALSE(ids.empty()) << text;
        const TokenId id = choose(dice, ids, steps > 40);
        ASSERT_TRUE(c.take(id).ok());
        text += vocabulary()->text(id);
      }
      const Json value = Json::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << text;
      EXPECT_TRUE(test::is_valid(schema, schema, value)) << text;
    }
  }
}

TEST(Mask, ALiteralByHand) {
  Constraint c(grammar(R"({"enum": ["a", "ab"]})"));
  EXPECT_EQ(shown(allowed(c)), R"("\n" " " "\"" "\n  " "\n" "\"a" "\"a\"" "\"ab\"" )");
  for (const char byte : {'"', 'a'}) ASSERT_TRUE(c.take(static_cast<TokenId>(byte) + 1).ok());
  EXPECT_EQ(shown(allowed(c)), R"("\"" "b" "b\"" )");
  ASSERT_TRUE(c.take('"' + 1).ok());
  EXPECT_TRUE(c.ended());
}

TEST(Mask, WhatIsNotAllowedIsRefused) {
  Constraint c(grammar(R"({"type": "boolean"})"));
  const Status status = c.take('x' + 1);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Code::invalid_argument);
  Constraint other(grammar(R"({"type": "boolean"})"));
  EXPECT_FALSE(other.take(kEnd).ok());
}

TEST(Mask, ANumberEndsByAnEndTokenOrByItsLastDigit) {
  Constraint c(grammar(R"({"type": "integer", "maximum": 120, "minimum": 5})"));
  ASSERT_TRUE(c.take('1' + 1).ok());
  EXPECT_EQ(shown(allowed(c)), R"("0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "12" "00" )");
  ASSERT_TRUE(c.take('1' + 1).ok());
  EXPECT_EQ(allowed(c)[0], kEnd);
  const auto without = c.allowed(false);
  ASSERT_TRUE(without.ok());
  EXPECT_EQ(ids_of(*without)[0], '0' + 1);
  ASSERT_TRUE(c.take('9' + 1).ok());
  EXPECT_TRUE(c.ended());
}

TEST(Mask, NestsToTheLimitAndClosesAgain) {
  Constraint c(grammar(R"({"type": "array"})"));
  std::string text;
  const auto has = [&](char byte) {
    const auto ids = allowed(c);
    return std::ranges::count(ids, byte + 1) > 0;
  };
  for (; has('['); text += '[') ASSERT_TRUE(c.take('[' + 1).ok());
  EXPECT_EQ(text.size(), 64u);
  EXPECT_FALSE(has('{'));
  EXPECT_FALSE(has('"'));
  EXPECT_TRUE(has('1'));
  for (std::size_t i = 0; i < 64; ++i) ASSERT_TRUE(c.take(']' + 1).ok());
  EXPECT_TRUE(c.ended());
}

TEST(Mask, NeverOpensWhatItCouldNotClose) {
  // A node needs three levels below its own: near the limit only null is left.
  const char* schema = R"({"$defs": {"n": {"anyOf": [{"type": "null"}, {"type": "object",
      "properties": {"x": {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1,
      "items": {"$ref": "#/$defs/n"}}}}, "required": ["x"]}]}}, "$ref": "#/$defs/n"})";
  Constraint c(grammar(schema));
  std::string text;
  for (int steps = 0; !c.ended(); ++steps) {
    ASSERT_LT(steps, 2000);
    const auto ids = allowed(c);
    ASSERT_FALSE(ids.empty()) << text;
    TokenId chosen = ids[0];
    for (const char* wish : {"n", "]", "}", "x", "\"", ":", "[", "{"})
      for (const TokenId id : ids)
        if (vocabulary()->text(id) == wish) chosen = id;
    ASSERT_TRUE(c.take(chosen).ok());
    text += vocabulary()->text(chosen);
  }
  EXPECT_TRUE(Json::accept(text)) << text;
  EXPECT_GE(std::ranges::count(text, '['), 40);
}

TEST(Mask, AlternativesDoNotMultiplyWithDepth) {
  const char* schema = R"({"$defs": {"t": {"anyOf": [
      {"type": "array", "items": {"$ref": "#/$defs/t"}},
      {"type": "array", "items": {"$ref": "#/$defs/t"}, "minItems": 1},
      {"type": "array", "prefixItems": [{"$ref": "#/$defs/t"}]}, {"type": "integer"}]}},
      "$ref": "#/$defs/t"})";
  const auto g = grammar(schema);
  Constraint c(g);
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(c.take('[' + 1).ok());
  allowed(c);
  ASSERT_TRUE(c.take('1' + 1).ok());
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(c.take(']' + 1).ok());
  EXPECT_TRUE(c.ended());
  EXPECT_LT(g->bytes(), 2u << 20);
}

TEST(Mask, WhiteSpaceIsBounded) {
  Constraint c(grammar(R"({"type": "object"})"));
  ASSERT_TRUE(c.take('{' + 1).ok());
  ASSERT_TRUE(c.take('\n' + 1).ok());
  for (int i = 0; i < 32; ++i) ASSERT_TRUE(c.take(' ' + 1).ok()) << i;
  EXPECT_FALSE(c.take(' ' + 1).ok());
}

TEST(Mask, CachesAreBoundedAndDecideNothing) {
  // A large tree of words: its sets do not fit all at once.
  std::vector<std::string> words;
  std::mt19937 random(5);
  Json schema;
  for (int i = 0; i < 12000; ++i) {
    words.push_back(std::to_string(random()));
    schema["enum"].push_back(words.back());
  }
  std::ranges::sort(words);
  const auto shared = grammar(schema.dump());
  std::size_t most = 0, least_after = 0;
  for (int answer = 0; answer < 12000; ++answer) {
    Constraint c(shared), other(shared);
    std::string text;
    while (!c.ended()) {
      const auto ids = allowed(c);
      ASSERT_FALSE(ids.empty()) << text;
      const TokenId id = ids[random() % ids.size()];
      if (answer % 100 == 0) {
        ASSERT_EQ(allowed(other), ids);
        ASSERT_TRUE(other.take(id).ok());
      }
      ASSERT_TRUE(c.take(id).ok());
      text += vocabulary()->text(id);
      most = std::max(most, shared->bytes());
      if (shared->bytes() < most / 2) least_after = shared->bytes();
    }
    const Json value = Json::parse(text);
    ASSERT_TRUE(std::ranges::binary_search(words, value.get<std::string>())) << text;
  }
  EXPECT_LT(most, Matcher::kMostBytes + Grammar::kMostMaskBytes + (8u << 20));
  EXPECT_GT(least_after, 0u) << "nothing was ever forgotten: " << most;
}

TEST(Mask, TooManyAlternativesAtOnceAreAnError) {
  Json schema = {{"anyOf", Json::array()}};
  for (int i = 0; i < 3000; ++i) schema["anyOf"].push_back({{"const", Json::array({i, 0})}});
  Constraint c(grammar(schema.dump()));
  ASSERT_TRUE(c.allowed(true).ok() || true);
  const Status taken = c.take('[' + 1);
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().code, Code::out_of_range) << taken.error().message;
}

TEST(Grammars, OneForEachSchemaAndNotTooMany) {
  Grammars grammars(vocabulary());
  const auto first = grammars.get(R"({"type": "null"})");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(*grammars.get(R"({"type": "null"})"), *first);
  std::weak_ptr<Grammar> old = *first;
  for (int i = 0; i < 40; ++i)
    ASSERT_TRUE(grammars.get("{\"const\": " + std::to_string(i) + "}").ok());
  EXPECT_NE(*grammars.get(R"({"type": "null"})"), *first);
  EXPECT_FALSE(grammars.get("{").ok());
}

TEST(TokenTrie, HasEveryTextOnce) {
  const auto& trie = *vocabulary();
  std::vector<int> seen(static_cast<std::size_t>(trie.size()), 0);
  std::string path;
  for (std::size_t i = 0; i + 1 < trie.nodes().size(); ++i) {
    const auto& node = trie.nodes()[i];
    path.resize(node.depth - 1u);
    path += static_cast<char>(node.byte);
    ASSERT_GT(node.skip, i);
    for (const TokenId id : trie.tokens_of(i)) {
      EXPECT_EQ(trie.text(id), path);
      ++seen[static_cast<std::size_t>(id)];
    }
  }
  EXPECT_EQ(seen[0], 0);
  for (std::size_t id = 1; id < seen.size(); ++id) EXPECT_EQ(seen[id], 1) << id;
}

}  // namespace
}  // namespace herd::constrain
