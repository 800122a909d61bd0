// The Runner where a device chooses tokens: steps are planned before the last one's choices are
// known, and every answer is still that of the same request alone.
#include "engine/runner.h"

#include <cmath>
#include <map>

#include "engine/limits.h"
#include "engine/sampling_backend.h"
#include "engine_clients.h"
#include "tiny_model.h"

namespace herd {
namespace {

using test::Dice;
using test::small_batch;

/// A model on such a device, put together by hand.
struct Device {
  Device(const std::string& path, const ModelOptions& options) {
    auto file = gguf::open(path);
    const auto config = read_config(*file);
    auto cpu = make_backend({DeviceType::cpu, 1, Isa::automatic});
    const auto limits = choose_limits(options, *config, **cpu);
    auto sampling = std::make_unique<test::SamplingBackend>(std::move(*cpu));
    backend = sampling.get();
    impl.model = std::move(*Model::load(*file, std::move(sampling), *limits, {}));
    if (auto tokenizer = Tokenizer::from_gguf(*file); tokenizer.ok()) impl.tokenizer = *tokenizer;
    impl.active = options.batch_size;
    impl.logits.resize(static_cast<std::size_t>(limits->max_logits * config->vocab));
  }
  LlamaModel::Impl impl;
  test::SamplingBackend* backend = nullptr;
};

std::vector<GenerateRequest> mixed_requests(std::uint64_t seed, int count) {
  Dice dice(seed);
  const std::vector<TokenId> beginning = dice.ids(40, 320);
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < count; ++i) {
    GenerateRequest r;
    if (dice.roll(0, 3) == 0) r.ids = beginning;
    for (const TokenId id : dice.ids(dice.roll(1, 30), 320)) r.ids.push_back(id);
    r.max_tokens = dice.roll(0, 100);
    r.ignore_end = dice.roll(0, 1) == 0;
    r.sampling.seed = static_cast<std::uint64_t>(dice.roll(0, 1000));
    r.sampling.temperature = dice.roll(0, 1) == 0 ? 0.0f : 0.9f;
    r.sampling.top_k = dice.roll(0, 1) * 40;
    if (dice.roll(0, 5) == 0) r.logprobs = 1;  // these need the logits on the host
    if (dice.roll(0, 9) == 0) r.prompt_logprobs = true;
    if (dice.roll(0, 5) == 0) r.sampling.repetition_penalty = 1.3f;
    if (dice.roll(0, 5) == 0) r.stop = {"e", "th"};
    requests.push_back(std::move(r));
  }
  return requests;
}

GenerateResult alone(LlamaModel& model, const GenerateRequest& request) {
  auto results = generate(model, {&request, 1});
  EXPECT_TRUE(results.ok());
  return std::move((*results)[0]);
}

struct Got {
  std::vector<TokenId> ids;
  std::string text;
  std::size_t logprobs = 0, prompt_logprobs = 0;
  FinishReason end = FinishReason::none;
};

/// Feeds requests at random times and cancels every ninth.
std::map<sched::RequestId, Got> play(Runner& runner, const LlamaModel::Impl& model,
                                     const std::vector<GenerateRequest>& requests,
                                     std::uint64_t seed) {
  Dice dice(seed);
  std::map<sched::RequestId, Got> got;
  const Runner::OnEvent on_event = [&](sched::RequestId id, Event&& event) {
    Got& g = got[id];
    EXPECT_EQ(g.end, FinishReason::none);
    if (event.id >= 0) g.ids.push_back(event.id);
    g.text += event.text;
    g.logprobs += event.logprob ? 1 : 0;
    g.prompt_logprobs += event.prompt_logprobs.size();
    g.end = event.finish_reason;
  };
  std::size_t next = 0;
  while (next < requests.size() || !runner.idle()) {
    while (next < requests.size() && dice.roll(0, 2) == 0) {
      GenerateRequest request = requests[next++];
      auto prompt = prepare(model, request);
      const auto id = runner.add(std::move(request), std::move(*prompt), 0, ReplyText::as_it_comes);
      EXPECT_EQ(*id, next);  // ids count from 1
      got[*id];
    }
    runner.step(on_event);
    for (auto& [id, g] : got)
      if (id % 9 == 0 && g.end == FinishReason::none && dice.roll(0, 9) == 0)
        on_event(id, runner.end(id, FinishReason::cancelled, {}));
    const Status whole = sched::check_integrity(runner.state());
    EXPECT_TRUE(whole.ok()) << whole.error().message;
  }
  return got;
}

TEST(Runner, AnswersAsAloneWhereTheDeviceChooses) {
  constexpr std::uint64_t kSeed = 31;
  const std::string path = test::data_file("tiny-gqa-Q4_K_M.gguf");
  const auto requests = mixed_requests(kSeed, 60);
  LlamaModel model = test::load(path, small_batch(0));
  std::vector<GenerateResult> expected;
  for (const auto& request : requests) expected.push_back(alone(model, request));
  for (const std::int64_t kv_tokens : {0, 1}) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", KV " << kv_tokens);
    Device device(path, small_batch(kv_tokens));
    Runner runner(device.impl, 16);
    const auto got = play(runner, device.impl, requests, kSeed);
    for (const auto& [id, g] : got) {
      SCOPED_TRACE(testing::Message() << "request " << id - 1);
      const GenerateResult& e = expected[id - 1];
      if (g.end == FinishReason::cancelled) {
        ASSERT_LE(g.ids.size(), e.ids.size());
        EXPECT_TRUE(std::equal(g.ids.begin(), g.ids.end(), e.ids.begin()));
        continue;
      }
      EXPECT_EQ(g.ids, e.ids);
      EXPECT_EQ(g.text, e.text);
      EXPECT_EQ(g.end, e.finish_reason);
      EXPECT_EQ(g.logprobs, e.logprobs.size());
      EXPECT_EQ(g.prompt_logprobs, e.prompt_logprobs.size());
    }
    EXPECT_EQ(runner.state().counters.preemptions > 0, kv_tokens > 0);
    EXPECT_GT(device.backend->late_reads, device.backend->reads / 10);
    EXPECT_LT(device.backend->late_reads, device.backend->reads);
  }
}

TEST(Runner, AChoiceThatTheDeviceCannotMakeEndsItsRequest) {
  test::TinyModel tiny = test::tiny_model();
  auto& embedding = tiny.tensors["token_embd.weight"].values;
  tiny.add_matrix("output.weight", quant::Type::F32, 101, 64, 5);
  for (std::size_t i = 50 * 64; i < 51 * 64; ++i) embedding[i] = std::nanf("");
  const test::TempModel file(tiny);
  std::vector<GenerateRequest> requests(3);
  requests[0].ids = {1, 2}, requests[1].ids = {1, 50, 2}, requests[2].ids = {1, 2};
  for (auto& request : requests) request.max_tokens = 10;
  Device device(file.path(), small_batch(0));
  Runner runner(device.impl, 16);
  const auto got = play(runner, device.impl, requests, 1);
  EXPECT_EQ(got.at(2).end, FinishReason::error);
  EXPECT_TRUE(got.at(2).ids.empty());
  EXPECT_EQ(runner.not_finite(), 1u);
  EXPECT_EQ(got.at(1).ids.size(), 10u);
  EXPECT_EQ(got.at(1).ids, got.at(3).ids);
}

}  // namespace
}  // namespace herd
