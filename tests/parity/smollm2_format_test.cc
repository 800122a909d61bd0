// The demo model held to formats: its answers parse and say what the schema asks; and how long a
// mask takes with its vocabulary. Skipped where the model is not in the cache (scripts/test brings
// it).
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/impl.h"
#include "engine_clients.h"

namespace herd {
namespace {

using Kind = AnswerFormat::Kind;
using nlohmann::json;

const std::string kPath = std::string(HERD_DEMO_CACHE) + "/SmolLM2-135M-Instruct.Q4_1.gguf";
const char* const kPerson = R"({"type": "object", "properties": {"name": {"type": "string",
    "maxLength": 30}, "age": {"type": "integer", "minimum": 0, "maximum": 130}, "languages":
    {"type": "array", "items": {"enum": ["English", "French", "German"]}, "minItems": 1, "maxItems": 3},
    "address": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/address"}]}}, "required": ["name", "age",
    "languages", "address"], "additionalProperties": false, "$defs": {"address": {"type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "zip": {"type": "integer", "minimum": 0,
    "maximum": 99999}}, "required": ["city", "zip"]}}})";
const char* const kYesNo = R"({"type": "object", "properties": {"reason": {"type": "string",
    "maxLength": 60}, "answer": {"type": "boolean"}}, "required": ["reason", "answer"]})";
const char* const kScores =
    R"({"type": "array", "items": {"type": "number", "minimum": 0, "maximum":
    10}, "minItems": 3, "maxItems": 3})";

class SmolLM2Format : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kPath)) GTEST_SKIP() << "no demo model at " << kPath;
  }
  static LlamaModel load_demo() {
    ModelOptions options;
    options.batch_size = 8;
    options.context = 320;
    return test::load(kPath, options);
  }
  static GenerateRequest request(const std::string& text, AnswerFormat format, std::uint64_t seed) {
    GenerateRequest r;
    r.prompt = "<|im_start|>user\n" + text + "<|im_end|>\n<|im_start|>assistant\n";
    r.max_tokens = 200;
    r.format = std::move(format);
    r.sampling.temperature = seed == 0 ? 0.0f : 1.0f;
    r.sampling.seed = seed;
    return r;
  }
};

TEST_F(SmolLM2Format, AnswersAreWhatTheSchemasAsk) {
  std::vector<GenerateRequest> requests;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    requests.push_back(request("Describe a person as JSON.", {Kind::json_schema, kPerson}, seed));
    requests.push_back(request("Is water wet? JSON.", {Kind::json_schema, kYesNo}, seed));
    requests.push_back(request("Three scores as JSON.", {Kind::json_schema, kScores}, seed));
  }
  LlamaModel model = load_demo();
  const auto results = generate(model, requests);
  ASSERT_TRUE(results.ok());
  for (std::size_t i = 0; i < results->size(); ++i) {
    const GenerateResult& r = (*results)[i];
    SCOPED_TRACE(r.text);
    ASSERT_EQ(r.finish_reason, FinishReason::stop) << r.error;
    const json v = json::parse(r.text, nullptr, false);
    ASSERT_FALSE(v.is_discarded());
    if (i % 3 == 0) {
      EXPECT_TRUE(v["name"].is_string() && v["age"].is_number_integer());
      EXPECT_TRUE(v["age"] >= 0 && v["age"] <= 130);
      EXPECT_TRUE(v["languages"].size() >= 1 && v["languages"].size() <= 3);
      EXPECT_TRUE(v["address"].is_null() || v["address"]["zip"] <= 99999);
      EXPECT_EQ(v.size(), 4u);
    } else if (i % 3 == 1) {
      EXPECT_TRUE(v["reason"].is_string() && v["answer"].is_boolean() && v.size() == 2);
    } else {
      ASSERT_EQ(v.size(), 3u);
      for (const json& score : v) EXPECT_TRUE(score >= 0 && score <= 10);
    }
  }
}

TEST_F(SmolLM2Format, AnyObjectIsAnObject) {
  LlamaModel model = load_demo();
  const std::vector<GenerateRequest> one = {
      request("Describe a house as JSON.", {Kind::json_object, ""}, 0)};
  const auto results = generate(model, one);
  ASSERT_TRUE(results.ok());
  const GenerateResult& r = (*results)[0];
  const json v = json::parse(r.text, nullptr, false);
  EXPECT_TRUE(r.finish_reason == FinishReason::length || v.is_object()) << r.text;
}

TEST_F(SmolLM2Format, EngineAnswersAsAlone) {
  std::vector<GenerateRequest> requests;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    requests.push_back(request("Describe a person as JSON.", {Kind::json_schema, kPerson}, seed));
    if (seed % 3 == 0) requests.back().format = {};
    requests.back().max_tokens = 60;
  }
  std::vector<GenerateResult> expected;
  LlamaModel model = load_demo();
  for (const auto& r : requests) expected.push_back(std::move((*generate(model, {&r, 1}))[0]));
  auto engine = test::start(load_demo());
  test::expect_all_same(test::run_concurrently(*engine, requests, 3), expected);
}

/// The answers of the tests above, once with empty memories and once with full ones.
TEST_F(SmolLM2Format, MasksAreFast) {
  LlamaModel model = load_demo();
  const auto grammar = model.impl().formats.grammar({Kind::json_schema, kPerson},
                                                    *model.tokenizer(), model.impl().vocab());
  ASSERT_TRUE(grammar.ok());
  const std::string answer =
      "{\n  \"name\": \"Jane Doe\",\n  \"age\": 31,\n  \"languages\": [\"English\", \"German\"],\n"
      "  \"address\": {\"city\": \"Paris\", \"zip\": 75001}\n}";
  const auto ids = *model.encode(answer, false);
  for (const char* memory : {"empty", "full"}) {
    constrain::Constraint c(*grammar);
    double worst = 0, sum = 0;
    for (const TokenId id : ids) {
      const auto before = std::chrono::steady_clock::now();
      const auto mask = c.allowed(true);
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - before;
      ASSERT_TRUE(mask.ok());
      EXPECT_NE((*mask)[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1, 0u);
      ASSERT_TRUE(c.take(id).ok());
      worst = std::max(worst, took.count());
      sum += took.count();
    }
    EXPECT_TRUE(c.ended());
    std::printf("masks over %d tokens, memory %s: mean %.1f us, worst %.1f us\n",
                static_cast<int>(model.impl().vocab()), memory,
                sum / static_cast<double>(ids.size()), worst);
    EXPECT_LT(sum / static_cast<double>(ids.size()), memory[0] == 'e' ? 50'000.0 : 1'000.0);
  }
}

}  // namespace
}  // namespace herd
