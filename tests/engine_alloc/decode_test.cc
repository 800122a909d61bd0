// Decoding allocates nothing: operator new is counted from step to step of a running generation.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tiny_model.h"

namespace {
std::atomic<std::size_t> g_allocations{0};

void* counted(std::size_t size, std::size_t alignment) {
  ++g_allocations;
  const std::size_t rounded = (size + alignment) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, rounded);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
// Not inlined: the compiler would warn that free() does not match a new that it did inline.
[[gnu::noinline]] void release(void* p) {
  std::free(p);
}
constexpr std::size_t kPlain = alignof(std::max_align_t);
}  // namespace

void* operator new(std::size_t size) {
  return counted(size, kPlain);
}
void* operator new[](std::size_t size) {
  return counted(size, kPlain);
}
void* operator new(std::size_t size, std::align_val_t a) {
  return counted(size, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t size, std::align_val_t a) {
  return counted(size, static_cast<std::size_t>(a));
}
void operator delete(void* p) noexcept {
  release(p);
}
void operator delete[](void* p) noexcept {
  release(p);
}
void operator delete(void* p, std::size_t) noexcept {
  release(p);
}
void operator delete[](void* p, std::size_t) noexcept {
  release(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
  release(p);
}
void operator delete[](void* p, std::align_val_t) noexcept {
  release(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  release(p);
}
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept {
  release(p);
}

namespace herd {
namespace {

/// operator new's count before each step: generate() polls `cancelled` once a step.
std::vector<std::size_t> counts_by_step(LlamaModel& model,
                                        const std::vector<GenerateRequest>& requests) {
  std::vector<std::size_t> counts;
  counts.reserve(1000);
  GenerateOptions options;
  options.cancelled = [&] {
    counts.push_back(g_allocations);
    return false;
  };
  const auto results = generate(model, requests, options);
  EXPECT_TRUE(results.ok());
  return counts;
}

class EngineAllocations : public testing::TestWithParam<DeviceType> {};

TEST_P(EngineAllocations, DecodeStepsAllocateNothing) {
  constexpr std::size_t kTokens = 70;  // past two pages of KV
  ModelOptions options;
  options.device = GetParam();
  options.threads = 2;
  options.batch_size = 4;
  options.context = 512;
  LlamaModel model = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  for (const float temperature : {0.0f, 0.8f}) {
    std::vector<GenerateRequest> requests(4);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      requests[i].ids = {static_cast<TokenId>(5 + i), 6, 7};
      requests[i].max_tokens = kTokens;
      requests[i].ignore_end = true;
      requests[i].sampling.temperature = temperature;
      requests[i].sampling.top_k = 40;
      requests[i].sampling.top_p = 0.9f;
      requests[i].sampling.repetition_penalty = 1.1f;
    }
    const std::size_t before = g_allocations;
    const auto counts = counts_by_step(model, requests);
    ASSERT_EQ(counts.size(), kTokens + 1);
    EXPECT_GT(counts[0], before) << "submission allocates, and the counter counts";
    for (std::size_t step = 2; step < kTokens; ++step)  // the last one makes the text
      EXPECT_EQ(counts[step], counts[1]) << "step " << step << ", temperature " << temperature;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineAllocations,
                         testing::Values(DeviceType::reference, DeviceType::cpu),
                         [](const auto& param) { return std::string(to_string(param.param)); });

}  // namespace
}  // namespace herd
