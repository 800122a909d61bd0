// What the cuda backend chooses on the device is what src/sample chooses from the same logits.
#include <gtest/gtest.h>

#include <cmath>

#include "engine_clients.h"
#include "sample/sampler.h"
#include "tiny_model.h"

namespace herd {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class CudaSampling : public testing::Test {
 protected:
  void SetUp() override {
    auto backend = make_backend({DeviceType::cuda, 1, Isa::automatic});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
    backend_ = std::move(*backend);
  }
  std::vector<TokenId> choose(const std::vector<float>& logits, std::int32_t vocab,
                              const std::vector<SamplingRow>& how) {
    const auto rows = static_cast<std::int32_t>(how.size());
    StepLimits limits{rows, 32, 32};
    EXPECT_TRUE(backend_->reserve_scratch(limits).ok());
    const MemoryMark mark = backend_->mark();
    const auto p = backend_->allocate(std::ssize(logits) * 4);
    EXPECT_TRUE(p.ok());
    backend_->upload(*p, logits.data(), std::ssize(logits) * 4);
    Batch batch;
    batch.ids.resize(how.size()), batch.positions.resize(how.size()),
        batch.slots.resize(how.size());
    batch.logit_rows.resize(how.size());
    batch.sampling = how;
    const StepRows step = backend_->begin_step(batch);
    if (!step.recorded) backend_->sample({static_cast<const float*>(*p), rows, vocab});
    backend_->end_step();
    const auto ids = backend_->sampled();
    EXPECT_TRUE(ids.ok()) << (ids.ok() ? "" : ids.error().message);
    std::vector<TokenId> result;
    if (ids.ok()) result.assign(ids->begin(), ids->end());
    backend_->release_to(mark);
    return result;
  }
  std::unique_ptr<Backend> backend_;
};

std::vector<SamplingRow> settings(test::Dice& dice) {
  std::vector<SamplingRow> rows;
  for (const float temperature : {0.0f, 0.3f, 1.0f, 3.0f})
    for (const int top_k : {0, 1, 2, 40, 5000})
      for (const float top_p : {1.0f, 0.9f, 0.3f})
        for (const float min_p : {0.0f, 0.05f})
          rows.push_back({temperature, top_p, min_p, top_k,
                          static_cast<std::uint64_t>(dice.roll(0, 1 << 30)), dice.roll(0, 9999)});
  return rows;
}

SamplingParams params_of(const SamplingRow& row) {
  SamplingParams p;
  p.temperature = row.temperature, p.top_k = row.top_k, p.top_p = row.top_p;
  p.min_p = row.min_p, p.seed = row.seed;
  return p;
}

TEST_F(CudaSampling, ChoosesAsTheHost) {
  test::Dice dice(81);
  std::size_t checked = 0, different = 0;
  for (const std::int32_t vocab : {1, 2, 31, 1000, 4099, 32000, 128256}) {
    for (int kind = 0; kind < 3; ++kind) {  // spread out; few distinct values; many impossible
      const auto how = settings(dice);
      std::vector<float> logits;
      for (std::size_t i = 0; i < how.size() * static_cast<std::size_t>(vocab); ++i) {
        float x = static_cast<float>(dice.roll(-1 << 20, 1 << 20)) / static_cast<float>(1 << 17);
        if (kind == 1) x = static_cast<float>(dice.roll(-2, 2));
        if (kind == 2 && dice.roll(0, 3) != 0 && i % static_cast<std::size_t>(vocab) != 0)
          x = -kInfinity;
        logits.push_back(x);
      }
      const auto got = choose(logits, vocab, how);
      ASSERT_EQ(got.size(), how.size());
      Sampler sampler(vocab);
      for (std::size_t r = 0; r < how.size(); ++r) {
        const auto row = std::span(logits).subspan(r * static_cast<std::size_t>(vocab),
                                                   static_cast<std::size_t>(vocab));
        const auto wanted = sampler.sample(row, params_of(how[r]), {}, how[r].position, false);
        ASSERT_TRUE(wanted.ok());
        ++checked;
        if (got[r] == wanted->id) continue;
        ++different;
        ADD_FAILURE() << "vocab " << vocab << " kind " << kind << " T " << how[r].temperature
                      << " k " << how[r].top_k << " p " << how[r].top_p << " min_p " << how[r].min_p
                      << ": " << got[r] << ", host " << wanted->id;
      }
    }
  }
  printf("%zu choices, %zu differ\n", checked, different);
}

TEST_F(CudaSampling, WhatIsNotFiniteHasNoChoice) {
  const float nan = std::nanf("");
  std::vector<float> logits = {1, 2,          3,          1,          nan,        3, kInfinity, 0,
                               0, -kInfinity, -kInfinity, -kInfinity, -kInfinity, 5, -kInfinity};
  const std::vector<SamplingRow> how(5);
  EXPECT_EQ(choose(logits, 3, how), (std::vector<TokenId>{2, -1, -1, -1, 1}));
}

/// A model that must run its generations on the device and give what the host would.
TEST_F(CudaSampling, GenerationIsTheSameHoweverItIsSampled) {
  ModelOptions options;
  options.device = DeviceType::cuda;
  options.batch_size = 5, options.context = 128;
  LlamaModel model = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  test::Dice dice(82);
  auto requests = test::drawn_requests(dice, 12, 40, 50, model.info().vocab);
  std::vector<GenerateResult> on_host;
  ASSERT_NO_FATAL_FAILURE(test::expect_the_same_however_sampled(model, requests, on_host));
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto alone = generate(model, std::span(&requests[i], 1));
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ((*alone)[0].ids, on_host[i].ids) << i;
  }
}

}  // namespace
}  // namespace herd
