// Quantisers: the error bounds that each format's step allows, computed from the data.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "quant/types.h"

namespace herd::quant {
namespace {

constexpr std::uint64_t kSeed = 20261124;
constexpr double kSmallestHalf = 0x1.0p-24;

/// What rounding to the nearest half can cost.
double half_error(double value) {
  return std::max(std::fabs(value) * 0x1.0p-11, kSmallestHalf / 2);
}

/// Sum of 12 uniforms less 6: bell-shaped, standard deviation 1.
float bell(std::uint64_t position) {
  double sum = -6;
  for (std::uint64_t i = 0; i < 12; ++i) sum += counter_uniform(kSeed, position * 12 + i);
  return static_cast<float>(sum);
}
/// Blocks of 256: bell-shaped, flat, heavy-tailed, one-sided and far from zero, at many scales.
std::vector<float> varied_values(std::size_t blocks) {
  std::vector<float> x(blocks * 256);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t block = i / 256;
    const float scale = std::exp2(static_cast<float>(block % 23) - 12.0f);
    const float b = bell(i), flat = static_cast<float>(counter_uniform(kSeed + 1, i));
    const float shape[] = {b, 2 * flat - 1, b * b * b, flat, flat + 3, -flat - 1};
    x[i] = scale * shape[block % 6];
  }
  return x;
}
std::vector<std::byte> quantized(Type type, std::span<const float> x) {
  std::vector<std::byte> bytes(
      static_cast<std::size_t>(row_bytes(type, static_cast<std::int64_t>(x.size()))));
  quantize(type, x, bytes);
  return bytes;
}
std::vector<float> dequantized(Type type, std::span<const std::byte> bytes) {
  const TypeInfo& info = type_info(type);
  std::vector<float> x(bytes.size() / static_cast<std::size_t>(info.bytes) *
                       static_cast<std::size_t>(info.block));
  dequantize(type, bytes, x);
  return x;
}
std::vector<float> round_trip(Type type, std::span<const float> x) {
  return dequantized(type, quantized(type, x));
}

std::string type_name(const testing::TestParamInfo<Type>& info) {
  return std::string(type_info(info.param).name);
}

/// The values first, first + step, ... first + top * step; the step may be negative.
struct Grid {
  double first, step;
  int top;
  /// From `value` to the nearest point.
  double distance(double value) const {
    const double position = std::clamp(std::nearbyint((value - first) / step), 0.0, double(top));
    return std::fabs(first + step * position - value);
  }
};
/// The grid that each simple format is meant to lay over its block.
Grid grid_of(Type type, std::span<const float> x) {
  const auto [min, max] = std::minmax_element(x.begin(), x.end());
  const double low = *min, high = *max;
  const double extreme = std::fabs(low) > std::fabs(high) ? low : high;
  switch (type) {
    case Type::Q4_0: return {extreme, -extreme / 8, 15};
    case Type::Q5_0: return {extreme, -extreme / 16, 31};
    case Type::Q8_0: return {-std::fabs(extreme), std::fabs(extreme) / 127, 254};
    case Type::Q4_1: return {low, (high - low) / 15, 15};
    default: return {low, (high - low) / 31, 31};
  }
}

class SimpleTypes : public testing::TestWithParam<Type> {};

TEST_P(SimpleTypes, EachValueGoesToItsNearestGridPoint) {
  SCOPED_TRACE(kSeed);
  const std::vector<float> x = varied_values(120), y = round_trip(GetParam(), x);
  for (std::size_t i = 0; i < x.size(); i += 32) {
    const std::span block = std::span(x).subspan(i, 32);
    const Grid grid = grid_of(GetParam(), block);
    const bool symmetric = type_info(GetParam()).bytes % 4 == 2;  // d alone; else d and m
    const double furthest = symmetric ? std::ceil(grid.top / 2.0) : grid.top;  // code from its zero
    const double slack = furthest * half_error(grid.step) +
                         (symmetric ? 0 : half_error(grid.first)) +
                         std::fabs(grid.step) * 1e-4;  // a tie may go either way in f32
    for (std::size_t k = 0; k < 32; ++k) {
      const double error = std::fabs(double(y[i + k]) - block[k]);
      const double bound = grid.distance(block[k]) + slack;
      ASSERT_FALSE(!(error <= bound))
          << "value " << i + k << " = " << block[k] << ", got " << y[i + k] << ", bound " << bound;
    }
  }
}

TEST_P(SimpleTypes, QuantizingTheResultAgainChangesNothing) {
  SCOPED_TRACE(kSeed);
  std::vector<float> x(256 * 64);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = bell(i) * 0.02f;
  const std::vector<std::byte> once = quantized(GetParam(), x);
  EXPECT_EQ(quantized(GetParam(), dequantized(GetParam(), once)), once);
}

INSTANTIATE_TEST_SUITE_P(Quantize, SimpleTypes,
                         testing::Values(Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1,
                                         Type::Q8_0),
                         type_name);

TEST(Quantize, KnownBytesQ4_0) {
  std::vector<float> x(32, 0.0f);
  x[0] = -8, x[1] = 7, x[16] = 3.5f, x[17] = -0.5f, x[31] = 8;
  const std::vector<std::byte> bytes = quantized(Type::Q4_0, x);
  BlockQ4_0 block;
  std::memcpy(&block, bytes.data(), sizeof block);
  EXPECT_EQ(half_to_float(block.d), 1.0f);  // the first of the two extremes decides the sign
  EXPECT_EQ(block.qs[0], 0x0 | 0xc << 4);   // -8, and 3.5 rounded up
  EXPECT_EQ(block.qs[1], 0xf | 0x8 << 4);   // 7, and -0.5 rounded up
  EXPECT_EQ(block.qs[15], 0x8 | 0xf << 4);  // 0, and 8 limited to 7
}

TEST(Quantize, KnownBytesQ8_0RoundHalvesAwayFromZero) {
  std::vector<float> x(32, 0.0f);
  x[0] = 127, x[1] = 2.5f, x[2] = -2.5f, x[3] = 2.49f, x[4] = -0.5f;
  const std::vector<std::byte> bytes = quantized(Type::Q8_0, x);
  BlockQ8_0 block;
  std::memcpy(&block, bytes.data(), sizeof block);
  EXPECT_EQ(half_to_float(block.d), 1.0f);
  const int expected[] = {127, 3, -3, 2, -1, 0};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(block.qs[i], expected[i]) << i;
}

// ---- K-quants ----

/// Squared error of 32 values on the plain line from min(0, least) to the largest, scale unrounded.
double min_max_error(std::span<const float> x, int top) {
  const auto [least, most] = std::minmax_element(x.begin(), x.end());
  const double low = std::min(0.0f, *least);
  const Grid grid{low, (*most - low) / top, top};
  double sum = 0;
  for (const float v : x) sum += grid.step > 0 ? std::pow(grid.distance(v), 2) : 0;
  return sum;
}
/// The same for 16 values around 0, the largest magnitude at code -32.
double extreme_error(std::span<const float> x) {
  double extreme = 0;
  for (const float v : x)
    if (std::fabs(v) > std::fabs(extreme)) extreme = v;
  const Grid grid{extreme, -extreme / 32, 63};
  double sum = 0;
  for (const float v : x) sum += extreme != 0 ? std::pow(grid.distance(v), 2) : 0;
  return sum;
}
double plain_error(Type type, std::span<const float> block) {
  double sum = 0;
  const std::size_t part = type == Type::Q6_K ? 16 : 32;
  for (std::size_t i = 0; i < block.size(); i += part) {
    const std::span x = block.subspan(i, part);
    sum += type == Type::Q6_K ? extreme_error(x) : min_max_error(x, type == Type::Q4_K ? 15 : 31);
  }
  return sum;
}
double squared_error(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(double(a[i]) - b[i], 2);
  return sum;
}

class KTypes : public testing::TestWithParam<Type> {};

/// The search must win back more than rounding the scales to 6 or 8 bits loses.
TEST_P(KTypes, BeatThePlainRangeWithExactScales) {
  SCOPED_TRACE(kSeed);
  std::vector<float> x(256 * 48);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = bell(i) * 0.03f;
  const std::vector<float> y = round_trip(GetParam(), x);
  const double error = squared_error(x, y), plain = plain_error(GetParam(), x);
  EXPECT_FALSE(!(error <= 0.87 * plain)) << error / plain;
}

/// Whatever the shape, a block errs at most as the plain range does, plus half a unit of its
/// rounded scale times the largest code and half a unit of its rounded min, at each value.
TEST_P(KTypes, RoundedScalesCostAtMostHalfAUnit) {
  SCOPED_TRACE(kSeed);
  const std::vector<float> x = varied_values(138), y = round_trip(GetParam(), x);
  for (std::size_t i = 0; i < x.size(); i += 256) {
    const std::span block = std::span(x).subspan(i, 256);
    const auto [least, most] = std::minmax_element(block.begin(), block.end());
    const double low = std::min(0.0f, *least), range = *most - low;
    const double largest = std::max<double>(*most, -low);
    double per_value = largest / 128 / 2 + 32 * kSmallestHalf / 2;  // Q6_K: 32 * scale / 128
    if (GetParam() != Type::Q6_K)
      per_value = (range / 63 - low / 63) / 2 * 1.1 + (31 + 1) * kSmallestHalf / 2;
    const double error = squared_error(block, std::span(y).subspan(i, 256));
    const double bound = std::pow(std::sqrt(plain_error(GetParam(), block)) + 16 * per_value, 2);
    ASSERT_FALSE(!(error <= bound)) << "block " << i / 256 << ": " << error << ", bound " << bound;
  }
}

TEST_P(KTypes, ErrAsAUniformStepOfTheMeanRangeWould) {
  std::vector<float> x(256 * 16);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = bell(i);
  const double error = squared_error(x, round_trip(GetParam(), x)) / static_cast<double>(x.size());
  const double step = GetParam() == Type::Q4_K   ? 4.2 / 15
                      : GetParam() == Type::Q5_K ? 4.2 / 31
                                                 : 3.8 / 63;
  // About the mean range of 32 (16) such values over the codes; uniform error has step^2 / 12.
  EXPECT_FALSE(!(error <= step * step / 12)) << error;
  EXPECT_FALSE(!(error >= step * step / 48)) << error << ": too good to be true";
}

INSTANTIATE_TEST_SUITE_P(Quantize, KTypes, testing::Values(Type::Q4_K, Type::Q5_K, Type::Q6_K),
                         type_name);

// ---- all types ----

class WritableTypes : public testing::TestWithParam<Type> {};

TEST_P(WritableTypes, ZerosStayZeros) {
  const std::vector<float> x(512, 0.0f);
  for (const float v : round_trip(GetParam(), x)) ASSERT_EQ(v, 0.0f);
}

TEST_P(WritableTypes, ConstantsKeepTheirValue) {
  for (const float value : {0.75f, -0.75f, 0.013f, -900.0f}) {
    const std::vector<float> x(256, value);
    // A half rounds the scale, another the offset; K-quants round the scale to 6 bits; bf16 has 8.
    const bool coarse = GetParam() == Type::BF16 || type_info(GetParam()).block == 256;
    const double bound = std::fabs(value) * (coarse ? 1.0 / 126 : 0x1.0p-9);
    for (const float v : round_trip(GetParam(), x))
      ASSERT_FALSE(!(std::fabs(v - value) <= bound)) << value << " became " << v;
  }
}

/// Weights so small that their scale is a subnormal half still keep their shape.
TEST_P(KTypes, SmallWeightsKeepTheirShape) {
  std::vector<float> x(256 * 8);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = bell(i) * 5e-6f;
  const double norm = squared_error(x, std::vector<float>(x.size()));
  const double error = squared_error(x, round_trip(GetParam(), x));
  EXPECT_FALSE(!(error <= 0.02 * norm)) << error / norm;
}

TEST_P(WritableTypes, ValuesBelowTheSmallestHalfBecomeSmallNotNan) {
  std::vector<float> x(256);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = bell(i) * 1e-39f;
  for (const float v : round_trip(GetParam(), x)) ASSERT_FALSE(!(std::fabs(v) <= 1e-38f)) << v;
}

TEST_P(WritableTypes, BlocksAreIndependentAndDeterministic) {
  const std::vector<float> x = varied_values(6);
  const std::vector<std::byte> all = quantized(GetParam(), x);
  const std::size_t bytes = all.size() / 6;
  for (std::size_t i = 0; i < 6; ++i) {
    const auto one = quantized(GetParam(), std::span(x).subspan(i * 256, 256));
    ASSERT_TRUE(std::equal(one.begin(), one.end(), all.begin() + static_cast<long>(i * bytes)));
  }
}

std::vector<Type> writable() {
  std::vector<Type> types;
  for (const TypeInfo& info : kTypes)
    if (info.can_quantize) types.push_back(info.type);
  return types;
}
INSTANTIATE_TEST_SUITE_P(Quantize, WritableTypes, testing::ValuesIn(writable()), type_name);

TEST(Quantize, SixteenBitTypesRoundOnce) {
  const std::vector<float> x = varied_values(2);
  const auto half = round_trip(Type::F16, x), bf16 = round_trip(Type::BF16, x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(half[i], half_to_float(float_to_half(x[i])));
    ASSERT_EQ(bf16[i], bf16_to_float(float_to_bf16(x[i])));
    ASSERT_FALSE(!(std::fabs(bf16[i] - x[i]) <= std::fabs(x[i]) * 0x1.0p-8f));
  }
  EXPECT_EQ(round_trip(Type::F32, x), x);
}

}  // namespace
}  // namespace herd::quant
