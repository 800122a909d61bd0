// Half and bfloat16: every 16-bit pattern, and every place where rounding changes its mind.
#include "base/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace herd {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::uint32_t bits_of(float value) {
  return std::bit_cast<std::uint32_t>(value);
}
/// The value of a finite half by its definition, exact in double.
double half_by_definition(int h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}
/// Nearest half by arithmetic in double: scale so that a half's last bit is 1, round, scale back.
std::uint16_t nearest_half(float value) {
  const double magnitude = std::fabs(double(value));
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (magnitude >= 65520) return sign | 0x7c00;
  const int exponent = magnitude < 0x1.0p-14 ? -14 : std::ilogb(magnitude);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // units is 0..2048; counting on from the exponent's first half also carries into the next one.
  const int first = exponent == -14 && units < 1024 ? 0 : (exponent + 15) << 10;
  return static_cast<std::uint16_t>(sign + first + (first == 0 ? units : units - 1024));
}

TEST(Half, EveryFiniteHalfHasItsDefinedValue) {
  for (int h = 0; h < 0x10000; ++h) {
    if ((h & 0x7c00) == 0x7c00) continue;
    const float value = half_to_float(static_cast<std::uint16_t>(h));
    ASSERT_EQ(double(value), half_by_definition(h)) << h;
    ASSERT_EQ(std::signbit(value), h >= 0x8000) << h;
  }
}

TEST(Half, EveryHalfComesBack) {
  for (int h = 0; h < 0x10000; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    const float value = half_to_float(half);
    if ((h & 0x7fff) > 0x7c00) {
      ASSERT_TRUE(std::isnan(value)) << h;
      ASSERT_EQ(float_to_half(value), half | 0x0200) << h;  // quiet, payload and sign kept
    } else {
      ASSERT_EQ(float_to_half(value), half) << h;
    }
  }
}

TEST(Half, MidpointsGoToEvenAndTheirNeighboursToTheNearest) {
  for (int h = 0; h < 0x7bff; ++h) {
    const double low = half_by_definition(h), high = half_by_definition(h + 1);
    const float middle = static_cast<float>((low + high) / 2);  // exact: one bit more than a half
    ASSERT_EQ(float_to_half(middle), h % 2 == 0 ? h : h + 1) << h;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), h) << h;
    ASSERT_EQ(float_to_half(std::nextafter(middle, kInfinity)), h + 1) << h;
    ASSERT_EQ(float_to_half(-middle), 0x8000 | (h % 2 == 0 ? h : h + 1)) << h;
  }
}

TEST(Half, RandomFloatsAcrossAllExponents) {
  constexpr std::uint64_t kSeed = 7;
  SCOPED_TRACE(kSeed);
  for (std::uint64_t i = 0; i < 1000000; ++i) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(counter_bits(kSeed, i)));
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_half(value), nearest_half(value)) << value;
  }
}

TEST(Half, Limits) {
  EXPECT_EQ(float_to_half(65504.0f), 0x7bff);
  EXPECT_EQ(float_to_half(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(kInfinity), 0x7c00);
  EXPECT_EQ(float_to_half(-kInfinity), 0xfc00);
  EXPECT_EQ(float_to_half(0x1.0p-25f), 0);  // a tie with zero, which is even
  EXPECT_EQ(float_to_half(std::nextafter(0x1.0p-25f, 1.0f)), 1);
  EXPECT_EQ(float_to_half(-0.0f), 0x8000);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(half_to_float(0x7c00), kInfinity);
  // A NaN whose payload sits below the half's bits must not turn into infinity.
  EXPECT_EQ(float_to_half(std::bit_cast<float>(0x7f800001u)) & 0x7e00, 0x7e00);
  static_assert(float_to_half(1.0f) == 0x3c00 && half_to_float(0x3c00) == 1.0f);
}

TEST(Bf16, EveryPatternComesBack) {
  for (int b = 0; b < 0x10000; ++b) {
    const auto bf16 = static_cast<std::uint16_t>(b);
    const float value = bf16_to_float(bf16);
    ASSERT_EQ(bits_of(value), static_cast<std::uint32_t>(b) << 16);
    const int quiet = (b & 0x7fff) > 0x7f80 ? 0x40 : 0;
    ASSERT_EQ(float_to_bf16(value), b | quiet) << b;
  }
}

TEST(Bf16, MidpointsGoToEven) {
  for (std::uint32_t b = 0; b < 0x7f7f; ++b) {  // the last midpoint is the overflow below
    const std::uint32_t middle = b << 16 | 0x8000;
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(middle)), b % 2 == 0 ? b : b + 1) << b;
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(middle - 1)), b) << b;
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(middle + 1)), b + 1) << b;
  }
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(float_to_bf16(kInfinity), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace herd
