// Decoding allocates nothing: operator new is counted while answers of different lengths are
// generated; only the length of the answers differs, so more of them may not cost one allocation.
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

std::size_t allocations_of(LlamaModel& model, const std::vector<GenerateRequest>& requests) {
  const std::size_t before = g_allocations;
  const auto results = generate(model, requests);
  const std::size_t count = g_allocations - before;
  EXPECT_TRUE(results.ok());
  for (std::size_t i = 0; results.ok() && i < requests.size(); ++i)
    EXPECT_EQ((*results)[i].ids.size(), static_cast<std::size_t>(requests[i].max_tokens));
  return count;
}

class EngineAllocations : public testing::TestWithParam<DeviceType> {};

TEST_P(EngineAllocations, DecodeStepsAllocateNothing) {
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
      requests[i].ignore_end = true;
      requests[i].sampling.temperature = temperature;
      requests[i].sampling.top_k = 40;
      requests[i].sampling.top_p = 0.9f;
    }
    const auto with_length = [&](std::int32_t n) {
      for (auto& request : requests) request.max_tokens = n;
      return allocations_of(model, requests);
    };
    with_length(20);  // whatever is only made once
    const std::size_t few = with_length(20);
    EXPECT_GT(few, 10u) << "the counter counts";
    EXPECT_EQ(with_length(200), few) << "temperature " << temperature;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineAllocations,
                         testing::Values(DeviceType::reference, DeviceType::cpu),
                         [](const auto& param) { return std::string(to_string(param.param)); });

}  // namespace
}  // namespace herd
