// The demo model's greedy answers and prompt log-probabilities against those of f32 arithmetic.
// Skipped where the model is not in the cache (scripts/test brings it).
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tiny_model.h"

namespace herd {
namespace {

constexpr double kMargin = 0.02;     // below it f32 itself could go either way
constexpr double kTolerance = 0.01;  // of a prompt token's log-probability
constexpr double kHalfKeysTolerance = 0.05;

struct Case {
  std::string prompt;
  std::vector<TokenId> prompt_ids, ids;
  std::vector<double> prompt_logprobs, margins;
};

std::vector<Case> read_cases() {
  std::ifstream in(test::data_file("smollm2-q4_1-greedy.json"));
  std::vector<Case> cases;
  for (const auto& json : nlohmann::json::parse(in))
    cases.push_back({json.at("prompt"), json.at("prompt_ids"), json.at("ids"),
                     json.at("prompt_logprobs"), json.at("margins")});
  return cases;
}

/// Steps that agree; the first that does not must have a small margin.
void compare_ids(const Case& expected, const std::vector<TokenId>& ids) {
  for (std::size_t i = 0; i < expected.ids.size(); ++i) {
    if (i < ids.size() && ids[i] == expected.ids[i]) continue;
    EXPECT_LT(expected.margins[i], kMargin) << expected.prompt << ": step " << i;
    printf("diverges at step %zu, margin %.4f: %.40s\n", i, expected.margins[i],
           expected.prompt.c_str());
    return;
  }
}

double worst_logprob_error(const Case& expected, const GenerateResult& answer) {
  EXPECT_EQ(answer.prompt_logprobs.size(), expected.prompt_logprobs.size());
  double worst = 0;
  for (std::size_t i = 0; i < answer.prompt_logprobs.size(); ++i) {
    const double error =
        std::fabs(static_cast<double>(answer.prompt_logprobs[i]) - expected.prompt_logprobs[i]);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

class SmolLM2 : public testing::TestWithParam<DeviceType> {};

TEST_P(SmolLM2, GreedyTokensAndPromptLogprobs) {
  const std::string path = std::string(HERD_DEMO_CACHE) + "/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no demo model at " << path;
  if (const auto missing = test::missing(GetParam())) GTEST_SKIP() << *missing;
  const double tolerance = GetParam() == DeviceType::cuda ? kHalfKeysTolerance : kTolerance;
  ModelOptions options;
  options.device = GetParam();
  options.batch_size = 8;
  options.context = 512;
  LlamaModel model = test::load(path, options);
  const auto cases = read_cases();
  ASSERT_EQ(cases.size(), 8u);
  std::vector<GenerateRequest> requests;
  for (const Case& c : cases) {
    GenerateRequest request;
    request.prompt = c.prompt;
    request.max_tokens = 64;
    request.prompt_logprobs = true;
    requests.push_back(request);
  }
  const auto answers = generate(model, requests);
  ASSERT_TRUE(answers.ok()) << answers.error().message;
  double worst = 0;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const GenerateResult& answer = (*answers)[i];
    EXPECT_EQ(answer.prompt_ids, cases[i].prompt_ids) << cases[i].prompt;
    compare_ids(cases[i], answer.ids);
    const double error = worst_logprob_error(cases[i], answer);
    EXPECT_FALSE(!(error <= tolerance)) << cases[i].prompt << ": " << error;
    worst = std::max(worst, error);
  }
  printf("worst prompt log-probability error %.2e\n", worst);
}

INSTANTIATE_TEST_SUITE_P(Devices, SmolLM2, testing::Values(DeviceType::cpu, DeviceType::cuda),
                         [](const auto& param) { return std::string(to_string(param.param)); });

}  // namespace
}  // namespace herd
