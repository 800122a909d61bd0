// Answers held to a format: whole JSON, the same in any company, and errors that name the keyword.
#include <nlohmann/json.hpp>

#include "engine_clients.h"

namespace herd {
namespace {

using namespace test;
using Kind = AnswerFormat::Kind;

const std::string kModel = "tiny-gqa-Q4_K_M.gguf";
constexpr std::int32_t kVocab = 320;
const char* const kSchemas[] = {
    R"({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99},
        "b": {"enum": ["yes", "no"]}}, "required": ["a", "b"]})",
    R"({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4})",
    R"({"type": "string", "minLength": 2, "maxLength": 8})"};

GenerateRequest with_format(std::vector<TokenId> ids, AnswerFormat format,
                            std::int32_t max_tokens = 100) {
  GenerateRequest r = ask(std::move(ids), max_tokens);
  r.format = std::move(format);
  return r;
}

std::vector<GenerateRequest> mixed(std::uint64_t seed) {
  Dice dice(seed);
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 48; ++i) {
    const int kind = dice.roll(0, 4);
    AnswerFormat format;
    if (kind < 3) format = {Kind::json_schema, kSchemas[kind]};
    if (kind == 3) format.kind = Kind::json_object;
    GenerateRequest r = with_format(dice.ids(dice.roll(1, 40), kVocab), format, dice.roll(20, 100));
    r.sampling.temperature = dice.roll(0, 2) == 0 ? 0.0f : 1.0f;
    r.sampling.seed = static_cast<std::uint64_t>(i);
    r.sampling.repetition_penalty = dice.roll(0, 3) == 0 ? 1.2f : 1.0f;
    r.logprobs = dice.roll(-1, 1);
    r.ignore_end = dice.roll(0, 1) == 0;
    requests.push_back(std::move(r));
  }
  return requests;
}

std::vector<GenerateResult> alone(const std::vector<GenerateRequest>& requests) {
  ModelOptions options = small_batch();
  options.batch_size = 1;
  LlamaModel model = load(data_file(kModel), options);
  return answers_alone(model, requests);
}

TEST(AnswerFormat, WholeAnswersAreJson) {
  const auto requests = mixed(1);
  const auto results = alone(requests);
  int whole = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (requests[i].format.kind == Kind::text) continue;
    SCOPED_TRACE(results[i].text);
    ASSERT_NE(results[i].finish_reason, FinishReason::error) << results[i].error;
    const auto json = nlohmann::json::parse(results[i].text, nullptr, false);
    EXPECT_EQ(json.is_discarded(), results[i].finish_reason == FinishReason::length);
    if (json.is_discarded()) continue;
    ++whole;
    if (requests[i].format.schema == kSchemas[0]) {
      EXPECT_TRUE(json["a"] >= 0 && json["a"] <= 99);
      EXPECT_TRUE(json["b"] == "yes" || json["b"] == "no");
    }
    if (requests[i].format.schema == kSchemas[1]) {
      EXPECT_TRUE(json.size() >= 2 && json.size() <= 4);
    }
    if (requests[i].format.kind == Kind::json_object) {
      EXPECT_TRUE(json.is_object());
    }
  }
  EXPECT_GE(whole, 20);
}

TEST(EngineThreads, FormatsAnswerAsAloneAlsoWherePagesAreShort) {
  constexpr std::uint64_t kSeed = 77;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const auto requests = mixed(kSeed);
  const auto expected = alone(requests);
  auto engine = start(load(data_file(kModel), small_batch()));
  expect_all_same(run_concurrently(*engine, requests, kSeed), expected);
  auto few = start(load(data_file(kModel), small_batch(1)));
  // Whether requests meet is a matter of time: again until some had to make room.
  for (std::uint64_t round = 1; round <= 20 && few->stats().preemptions == 0; ++round)
    expect_all_same(run_concurrently(*few, requests, kSeed + round), expected);
  EXPECT_GT(few->stats().preemptions, 0u);
  expect_no_page_used(*few);
}

TEST(AnswerFormat, ABadSchemaFailsAtSubmitAndNamesTheKeyword) {
  auto engine = start(load(data_file(kModel), small_batch()));
  const auto refused = engine->submit(
      with_format({1}, {Kind::json_schema, R"({"type": "string", "pattern": "x"})"}));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::unsupported);
  EXPECT_NE(refused.error().message.find("\"pattern\""), std::string::npos);
  const auto none = engine->submit(with_format({1}, {Kind::json_schema, ""}));
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, Code::invalid_argument);

  LlamaModel model = load(data_file(kModel), small_batch());
  const std::vector<GenerateRequest> two = {with_format({1}, {Kind::json_schema, "{"}),
                                            with_format({1}, {Kind::json_schema, kSchemas[1]})};
  const auto results = generate(model, two);
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].finish_reason, FinishReason::error);
  EXPECT_EQ((*results)[1].finish_reason, FinishReason::stop);
}

TEST(AnswerFormat, WhatOnlyShowsOnTheWayEndsThatRequestAlone) {
  nlohmann::json schema = {{"anyOf", nlohmann::json::array()}};
  for (int i = 0; i < 3000; ++i) schema["anyOf"].push_back({{"const", {i, 0}}});
  auto engine = start(load(data_file(kModel), small_batch()));
  Answer bad = submit(*engine, with_format({1}, {Kind::json_schema, schema.dump()}));
  Answer good = submit(*engine, with_format({1}, {Kind::json_schema, kSchemas[1]}));
  const Whole failed = read(bad), fine = read(good);
  EXPECT_EQ(failed.finish_reason, FinishReason::error);
  EXPECT_EQ(failed.error.code, Code::out_of_range) << failed.error.message;
  EXPECT_EQ(fine.finish_reason, FinishReason::stop);
  expect_no_page_used(*engine);
}

}  // namespace
}  // namespace herd
