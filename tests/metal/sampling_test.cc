// What the metal backend chooses on the device, over the emulator, is what src/sample chooses from
// the same logits.
#include "sample/sampler.h"

#include <cstdlib>

#include "backend/backends.h"

namespace herd::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class MetalSampling : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("HERD_EMULATOR_THREADS", "64", 1);  // fewer fibers to switch between
    auto made = make_backend({DeviceType::metal_emulated, 1, Isa::automatic});
    unsetenv("HERD_EMULATOR_THREADS");
    ASSERT_TRUE(made.ok()) << made.error().message;
    backend_ = std::move(*made);
  }
  std::vector<TokenId> choose(const std::vector<float>& logits, std::int32_t vocab,
                              const std::vector<SamplingRow>& how) {
    Backend& backend = *backend_;
    const MemoryMark mark = backend.mark();
    const auto rows = static_cast<std::int32_t>(how.size());
    const auto p = backend.allocate(std::ssize(logits) * 4);
    EXPECT_TRUE(p.ok());
    backend.upload(*p, logits.data(), std::ssize(logits) * 4);
    Batch batch;
    batch.ids.resize(how.size()), batch.positions.resize(how.size());
    batch.slots.resize(how.size()), batch.logit_rows.resize(how.size());
    batch.sampling = how;
    backend.begin_step(batch);
    backend.sample({static_cast<const float*>(*p), rows, vocab});
    backend.end_step();
    const auto ids = backend.sampled();
    EXPECT_TRUE(ids.ok()) << (ids.ok() ? "" : ids.error().message);
    backend.release_to(mark);
    return ids.ok() ? std::vector<TokenId>(ids->begin(), ids->end()) : std::vector<TokenId>();
  }
  std::unique_ptr<Backend> backend_;
};

std::vector<SamplingRow> settings(Random& random) {
  std::vector<SamplingRow> rows(1);  // the first is greedy
  for (const float temperature : {0.3f, 3.0f})
    for (const int top_k : {0, 3})
      for (const float top_p : {1.0f, 0.9f, 0.3f})
        for (const float min_p : {0.0f, 0.05f})
          rows.push_back({temperature, top_p, min_p, top_k,
                          static_cast<std::uint64_t>(random.below(1 << 30)), random.below(10000)});
  return rows;
}

TEST_F(MetalSampling, ChoosesAsTheHost) {
  Random random(95);
  for (const std::int32_t vocab : {1, 31, 257}) {
    for (int kind = 0; kind < 3; ++kind) {  // spread out; few distinct values; many impossible
      const auto how = settings(random);
      std::vector<float> logits;
      for (std::size_t i = 0; i < how.size() * static_cast<std::size_t>(vocab); ++i) {
        float x = random.uniform(-8, 8);
        if (kind == 1) x = static_cast<float>(random.below(5) - 2);
        if (kind == 2 && random.below(4) != 0 && i % static_cast<std::size_t>(vocab) != 0)
          x = -kInfinity;
        logits.push_back(x);
      }
      const auto got = choose(logits, vocab, how);
      ASSERT_EQ(got.size(), how.size());
      Sampler sampler(vocab);
      for (std::size_t r = 0; r < how.size(); ++r) {
        const auto row = std::span(logits).subspan(r * static_cast<std::size_t>(vocab),
                                                   static_cast<std::size_t>(vocab));
        SamplingParams params;
        params.temperature = how[r].temperature, params.top_k = how[r].top_k,
        params.top_p = how[r].top_p;
        params.min_p = how[r].min_p, params.seed = how[r].seed;
        const auto wanted = sampler.sample(row, params, {}, how[r].position, false);
        ASSERT_TRUE(wanted.ok());
        EXPECT_EQ(got[r], wanted->id)
            << "vocab " << vocab << " kind " << kind << " T " << how[r].temperature << " k "
            << how[r].top_k << " p " << how[r].top_p << " min_p " << how[r].min_p;
      }
    }
  }
}

TEST_F(MetalSampling, EveryRowOfALongStep) {
  Random random(96);
  const std::int32_t rows = 512, vocab = 33;
  const auto logits = random.floats(static_cast<std::size_t>(rows * vocab));
  const auto got = choose(logits, vocab, std::vector<SamplingRow>(static_cast<std::size_t>(rows)));
  ASSERT_EQ(got.size(), static_cast<std::size_t>(rows));
  for (std::int32_t r = 0; r < rows; ++r) {
    const auto first = logits.begin() + r * vocab;
    ASSERT_EQ(got[static_cast<std::size_t>(r)], std::max_element(first, first + vocab) - first)
        << r;
  }
}

TEST_F(MetalSampling, WhatIsNotFiniteHasNoChoice) {
  const float nan = std::nanf("");
  const std::vector<float> logits = {1,          2,          3,          1, nan,
                                     3,          kInfinity,  0,          0, -kInfinity,
                                     -kInfinity, -kInfinity, -kInfinity, 5, -kInfinity};
  EXPECT_EQ(choose(logits, 3, std::vector<SamplingRow>(5)),
            (std::vector<TokenId>{2, -1, -1, -1, 1}));
}

}  // namespace
}  // namespace herd::testing
