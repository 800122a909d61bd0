// What the backend tests share: every backend this machine must offer, random weights and inputs.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
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
  std::int32_t below(std::int32_t n) {
    return static_cast<std::int32_t>(bits() % static_cast<std::uint64_t>(n));
  }
  std::vector<float> floats(std::size_t n, float low = -1, float high = 1) {
    std::vector<float> out(n);
    for (float& x : out) x = uniform(low, high);
    return out;
  }

 private:
  std::uint64_t seed_, next_ = 0;
};

/// Random blocks of a type: any bits in the codes, finite scales of sane size.
inline std::vector<std::byte> random_blocks(quant::Type type, std::int64_t rows,
                                            std::int64_t columns, Random& random) {
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
      case Q4_1:
      case Q5_1:
      case Q4_K:
      case Q5_K: put_half(at), put_half(at + 2); break;
      case Q2_K: put_half(at + 80), put_half(at + 82); break;
      case Q3_K: put_half(at + 108); break;
      case Q6_K: put_half(at + 208); break;
      default: put_half(at);
    }
  }
  return out;
}

inline MatrixSource source_of(const std::vector<std::byte>& blocks, quant::Type type,
                              std::int64_t rows, std::int64_t columns) {
  const std::int64_t row_bytes = quant::row_bytes(type, columns);
  return {"w", type, rows, columns,
          [&blocks, row_bytes](std::int64_t first, std::int64_t, std::span<std::byte> out) {
            std::memcpy(out.data(), blocks.data() + first * row_bytes, out.size());
            return Status();
          }};
}

/// Instruction sets this machine must offer.
inline std::vector<Isa> present_isas() {
  std::vector<Isa> isas = {Isa::scalar};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(Isa::avx2);
  if (make_backend({DeviceType::cpu, 1, Isa::avxvnni}).ok()) isas.push_back(Isa::avxvnni);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    isas.push_back(Isa::avx512);
#elif defined(__aarch64__)
  isas.push_back(Isa::neon);
  if (make_backend({DeviceType::cpu, 1, Isa::neondot}).ok()) isas.push_back(Isa::neondot);
#endif
  return isas;
}

inline std::unique_ptr<Backend> make(DeviceType device, Isa isa, int threads) {
  auto backend = make_backend({device, threads, isa});
  EXPECT_TRUE(backend.ok()) << (backend.ok() ? "" : backend.error().message);
  return backend.ok() ? std::move(*backend) : nullptr;
}

/// Bit equality, naming the first difference.
inline ::testing::AssertionResult same_bits(const std::vector<float>& a,
                                            const std::vector<float>& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], 4) != 0)
      return ::testing::AssertionFailure() << "value " << i << ": " << a[i] << " and " << b[i];
  return ::testing::AssertionSuccess();
}

/// As same_bits, but one NaN is as good as another: their bits are no part of the contract.
inline ::testing::AssertionResult same_values(std::vector<float> a, std::vector<float> b) {
  for (std::vector<float>* v : {&a, &b})
    for (float& x : *v)
      if (std::isnan(x)) x = std::numeric_limits<float>::quiet_NaN();
  return same_bits(a, b);
}

/// What an op must overwrite, and what stands behind its output and must stay.
inline constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kSentinel = 12345.0f;

/// An output buffer: poisoned, a sentinel on both sides, and not aligned to more than a float.
class Output {
 public:
  explicit Output(std::size_t n) : Output(std::vector<float>(n, kPoison)) {}
  explicit Output(const std::vector<float>& values) {
    all_.reserve(values.size() + 2);
    all_.push_back(kSentinel);
    all_.insert(all_.end(), values.begin(), values.end());
    all_.push_back(kSentinel);
  }
  float* data() { return all_.data() + 1; }
  /// What was written; fails the test if a sentinel is gone.
  std::vector<float> take() const {
    EXPECT_EQ(all_.front(), kSentinel) << "written before the output";
    EXPECT_EQ(all_.back(), kSentinel) << "written past the output";
    return {all_.begin() + 1, all_.end() - 1};
  }

 private:
  std::vector<float> all_;
};

/// One way to run the cpu backend.
struct CpuSetup {
  Isa isa;
  int threads;
};
inline std::string name_of(const CpuSetup& setup) {
  return std::string(to_string(setup.isa)) + "_" + std::to_string(setup.threads) + "Threads";
}
inline std::string setup_name(const ::testing::TestParamInfo<CpuSetup>& info) {
  return name_of(info.param);
}
/// Every one this machine must offer.
inline std::vector<CpuSetup> setups() {
  std::vector<CpuSetup> out;
  for (const Isa isa : present_isas())
    for (const int threads : {1, 2}) out.push_back({isa, threads});
  return out;
}

class CpuEqualsReference : public ::testing::TestWithParam<CpuSetup> {
 protected:
  CpuEqualsReference()
      : reference_(make(DeviceType::reference, Isa::automatic, 1)),
        cpu_(make(DeviceType::cpu, GetParam().isa, GetParam().threads)) {}
  void SetUp() override { ASSERT_TRUE(reference_ != nullptr && cpu_ != nullptr); }
  std::unique_ptr<Backend> reference_, cpu_;
};

/// Ops that read their step's batch, in a step of their own.
inline void embed(Backend& backend, MatrixId table, const std::vector<TokenId>& ids, float* out) {
  Batch batch;
  batch.ids = ids;
  backend.begin_step(batch);
  backend.embed({table, out, batch.n_rows()});
  backend.end_step();
}
inline void rope(Backend& backend, float* x, const std::vector<std::int32_t>& positions,
                 const float* table, std::int32_t heads, std::int32_t size,
                 std::int32_t rope_size) {
  Batch batch;
  batch.positions = positions;
  batch.ids.resize(positions.size());
  backend.begin_step(batch);
  backend.rope_store(
      {x, nullptr, nullptr, nullptr, table, batch.n_rows(), heads, 0, size, rope_size, 0});
  backend.end_step();
}
inline void kv_store(Backend& backend, const std::vector<float>& k, const std::vector<float>& v,
                     const std::vector<std::int32_t>& slots, std::int32_t layer) {
  Batch batch;
  batch.slots = slots;
  batch.ids.resize(slots.size());
  backend.begin_step(batch);
  std::vector<float> keys = k;
  backend.rope_store(
      {nullptr, keys.data(), v.data(), nullptr, nullptr, batch.n_rows(), 0, 0, 0, 0, layer});
  backend.end_step();
}
inline void attention(Backend& backend, const float* q, float* out, const Batch& batch,
                      std::int32_t layer, std::int32_t heads, float scale) {
  backend.begin_step(batch);
  backend.attention({q, out, layer, heads, scale});
  backend.end_step();
}
/// Rows `picks` of x, normed.
inline void norm_of_logit_rows(Backend& backend, const std::vector<float>& x,
                               const std::vector<std::int32_t>& picks,
                               const std::vector<float>& weight, float* out, std::int32_t columns) {
  Batch batch;
  batch.logit_rows = picks;
  batch.ids.resize(x.size() / weight.size());
  backend.begin_step(batch);
  backend.rms_norm({x.data(), weight.data(), out, static_cast<std::int32_t>(picks.size()), columns,
                    1e-5f, true});
  backend.end_step();
}

/// x times w on a backend, into a poisoned buffer between sentinels.
inline std::vector<float> run_matmul(Backend& backend, const std::vector<std::byte>& blocks,
                                     quant::Type type, std::int32_t rows, std::int32_t columns,
                                     std::int32_t outputs, const std::vector<float>& x,
                                     const std::vector<float>* add_to) {
  const MemoryMark mark = backend.mark();
  const auto id = backend.load_matrix(source_of(blocks, type, outputs, columns));
  EXPECT_TRUE(id.ok());
  EXPECT_TRUE(backend.reserve_scratch({rows, columns, 1}).ok());
  Output out(static_cast<std::size_t>(rows) * static_cast<std::size_t>(outputs));
  if (add_to != nullptr) out = Output(*add_to);
  backend.matmul({x.data(),
                  rows,
                  1,
                  {*id},
                  {out.data()},
                  add_to != nullptr ? Epilogue::add : Epilogue::store});
  backend.release_to(mark);
  return out.take();
}

}  // namespace herd::testing
