// The demo model under continuous batching: 64 requests at once, each answer held against the same
// request alone. Skipped where the model is not in the cache (scripts/test brings it).
#include <filesystem>

#include "engine_clients.h"

namespace herd {
namespace {

constexpr std::uint64_t kSeed = 64;
const std::string kPath = std::string(HERD_DEMO_CACHE) + "/SmolLM2-135M-Instruct.Q4_1.gguf";

const char* const kTexts[] = {
    "You are a helpful assistant that answers briefly and names its sources, or says that it has "
    "none. Question: ",
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):",
    "Water boils at",
    "List three reasons why the sky is blue: "};

std::vector<GenerateRequest> random_requests() {
  test::Dice dice(kSeed);
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 64; ++i) {
    GenerateRequest r;
    for (int part = dice.roll(1, 3); part > 0; --part) r.prompt += kTexts[dice.roll(0, 5)];
    r.max_tokens = dice.roll(1, 48);
    r.sampling.temperature = dice.roll(0, 1) == 0 ? 0.0f : 0.8f;
    r.sampling.seed = static_cast<std::uint64_t>(i);
    r.logprobs = dice.roll(0, 3) == 0 ? 1 : -1;
    requests.push_back(r);
  }
  return requests;
}

LlamaModel load_demo(std::int32_t batch_size, std::int64_t kv_tokens) {
  ModelOptions options;
  options.batch_size = batch_size;
  options.context = 256;
  options.kv_tokens = kv_tokens;
  return test::load(kPath, options);
}

class SmolLM2Engine : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kPath)) GTEST_SKIP() << "no demo model at " << kPath;
  }
  static std::vector<GenerateResult> alone(const std::vector<GenerateRequest>& requests) {
    LlamaModel model = load_demo(1, 0);
    return test::answers_alone(model, requests);
  }
};

TEST_F(SmolLM2Engine, SixtyFourStreamsAnswerAsAlone) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const auto requests = random_requests();
  const auto expected = alone(requests);
  auto engine = test::start(load_demo(16, 0));
  test::expect_all_same(test::run_concurrently(*engine, requests, kSeed), expected);
  SCOPED_TRACE("warm cache");
  test::expect_all_same(test::run_concurrently(*engine, requests, kSeed + 9), expected);
  EXPECT_GT(engine->stats().cached_tokens, 0u);
  test::expect_no_page_used(*engine);
}

TEST_F(SmolLM2Engine, APoolSoSmallThatItPreemptsChangesNothing) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  auto requests = random_requests();
  requests.resize(12);
  for (auto& request : requests)  // one page or two at first, up to six in the end
    request.max_tokens += 60, request.ignore_end = true;
  const auto expected = alone(requests);
  auto engine = test::start(load_demo(8, 1));
  test::expect_all_same(test::run_concurrently(*engine, requests, kSeed), expected);
  EXPECT_GT(engine->stats().preemptions, 0u);
  test::expect_no_page_used(*engine);
}

}  // namespace
}  // namespace herd
