// What the backend tests share: every backend this machine must offer, random weights and inputs.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/half.h"
#include "base/rng.h"

namespace herd::testing {

/// Random numbers with a seed to print.
class Random {
 public:
  explicit Random(std::uint64_t seed) : seed_(seed) {}
  std::uint64_t bits() { return counter_bits(seed_, next_++); }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(static_cast<double>(bits() >> 11) * 0x1.0p-53);
  }
  std::int32_t below(std::int32_t n) { return static_cast<std::int32_t>(bits() % static_cast<std::uint64_t>(n)); }
  std::vector<float> floats(std::size_t n, float low = -1, float high = 1) {
    std::vector<float> out(n);
    for (float& x : out) x = uniform(low, high);
    return out;
  }

 private:
  std::uint64_t seed_, next_ = 0;
};

/// Random blocks of a type: any bits in the codes, finite scales of sane size.
inline std::vector<std::byte> random_blocks(quant::Type type, std::int64_t rows, std::int64_t columns, Random& random) {
  const quant::TypeInfo& info = quant::type_info(type);
  std::vector<std::byte> out(static_cast<std::size_t>(rows * quant::row_bytes(type, columns)));
  for (std::byte& b : out) b = static_cast<std::byte>(random.bits());
  const auto put_half = [&](std::size_t at) {
    const std::uint16_t half = float_to_half(random.uniform(-0.05f, 0.05f));
    std::memcpy(out.data() + at, &half, 2);
  };
  for (std::size_t at = 0; at < out.size(); at += static_cast<std::size_t>(info.bytes)) {
    using enum quant::Type;
    switch (type) {
      case F32: {
        const float x = random.uniform(-1, 1);
        std::memcpy(out.data() + at, &x, 4);
        break;
      }
      case BF16: {
        const std::uint16_t b = float_to_bf16(random.uniform(-1, 1));
        std::memcpy(out.data() + at, &b, 2);
        break;
      }
      case Q4_1: case Q5_1: case Q4_K: case Q5_K: put_half(at), put_half(at + 2); break;
      case Q2_K: put_half(at + 80), put_half(at + 82); break;
      case Q3_K: put_half(at + 108); break;
      case Q6_K: put_half(at + 208); break;
      default: put_half(at);
    }
  }
  return out;
}

inline MatrixSource source_of(const std::vector<std::byte>& blocks, quant::Type type, std::int64_t rows,
                              std::int64_t columns) {
  const std::int64_t row_bytes = quant::row_bytes(type, columns);
  return {"w", type, rows, columns, [&blocks, row_bytes](std::int64_t first, std::int64_t, std::span<std::byte> out) {
            std::memcpy(out.data(), blocks.data() + first * row_bytes, out.size());
            return Status();
          }};
}

/// Instruction sets this machine must offer.
inline std::vector<Isa> present_isas() {
  std::vector<Isa> isas = {Isa::scalar};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(Isa::avx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    isas.push_back(Isa::avx512);
#elif defined(__aarch64__)
  isas.push_back(Isa::neon);
#endif
  return isas;
}

inline std::unique_ptr<Backend> make(DeviceType device, Isa isa, int threads) {
  auto backend = make_backend({device, threads, isa});
  EXPECT_TRUE(backend.ok()) << (backend.ok() ? "" : backend.error().message);
  return backend.ok() ? std::move(*backend) : nullptr;
}

/// Bit equality, naming the first difference.
inline ::testing::AssertionResult same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], 4) != 0)
      return ::testing::AssertionFailure() << "value " << i << ": " << a[i] << " and " << b[i];
  return ::testing::AssertionSuccess();
}

}  // namespace herd::testing
