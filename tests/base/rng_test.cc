// The counter generator: values are part of the promise (a seed gives the same text for ever).
#include "base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>

namespace herd {
namespace {

TEST(CounterRng, FixedValues) {
  constexpr std::uint64_t kLast = ~std::uint64_t{0};
  EXPECT_EQ(counter_bits(0, 0), 0xa706dd2f4d197e6full);
  EXPECT_EQ(counter_bits(0, 1), 0xb382a305f4414f5eull);
  EXPECT_EQ(counter_bits(1, 0), 0x5e41ab087439611eull);
  EXPECT_EQ(counter_bits(42, 7), 0xbc16a3d4cc48678eull);
  EXPECT_EQ(counter_bits(kLast, kLast), 0x445018e305810b78ull);
  EXPECT_EQ(counter_uniform(0, 0), static_cast<double>(0xa706dd2f4d197e6full >> 11) * 0x1.0p-53);
}

TEST(CounterRng, UniformIsInRangeAndEven) {
  constexpr int kDraws = 200000, kBins = 100;
  std::array<int, kBins> counts{};
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = counter_uniform(11, static_cast<std::uint64_t>(i));
    ASSERT_FALSE(!(u >= 0 && u < 1));
    ++counts[static_cast<std::size_t>(u * kBins)];
    sum += u;
  }
  // Five standard deviations of the mean, and of chi-squared with 99 degrees of freedom.
  EXPECT_FALSE(!(std::fabs(sum / kDraws - 0.5) <= 5 * std::sqrt(1.0 / 12 / kDraws)));
  double chi_squared = 0;
  for (const int count : counts)
    chi_squared += std::pow(count - kDraws / kBins, 2) / (kDraws / kBins);
  EXPECT_FALSE(!(chi_squared <= 99 + 5 * std::sqrt(2 * 99.0))) << chi_squared;
  EXPECT_FALSE(!(chi_squared >= 99 - 5 * std::sqrt(2 * 99.0))) << chi_squared;
}

/// Neighbouring seeds and positions differ in about half of their bits, each bit as often as not.
TEST(CounterRng, NeighboursAreUnrelated) {
  constexpr int kPairs = 20000;
  const auto flips = [](std::uint64_t seed_step, std::uint64_t position_step) {
    std::int64_t total = 0;
    for (std::uint64_t i = 0; i < kPairs; ++i)
      total += std::popcount(counter_bits(i, 3 * i) ^
                             counter_bits(i + seed_step, 3 * i + position_step));
    return static_cast<double>(total) / kPairs;
  };
  const double bound = 5 * 4 / std::sqrt(double(kPairs));  // 64 fair bits deviate by 4
  EXPECT_FALSE(!(std::fabs(flips(0, 1) - 32) <= bound));
  EXPECT_FALSE(!(std::fabs(flips(1, 0) - 32) <= bound));
  EXPECT_FALSE(!(std::fabs(flips(1, 1) - 32) <= bound));
  EXPECT_FALSE(!(std::fabs(flips(1, ~std::uint64_t{0}) - 32) <= bound));
}

}  // namespace
}  // namespace herd
