// Inputs as integers: what every instruction set makes of them, against the reference's plain loops
// and against values worked out by hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "backend/backends.h"
#include "backend/cpu/table.h"
#include "backend/reference/rounded.h"

namespace herd::cpu {
namespace {

/// A run of `rows` rows, rounded by a table, with all that can be asked for.
struct RoundedRows {
  std::int32_t rows, columns;
  std::vector<std::int8_t> digits;
  std::vector<float> scales, sums[kSumSizes];
  std::vector<std::int32_t> less[kSumSizes];

  RoundedRows(const KernelTable& table, const std::vector<float>& x, std::int32_t n)
      : rows(n), columns(static_cast<std::int32_t>(x.size()) / n) {
    digits.resize(4 * x.size());
    scales.resize(x.size() / kRoundGroup);
    RoundedRun run = {digits.data(), scales.data(), {}, {}};
    for (int i = 0; i < kSumSizes; ++i) {
      const std::size_t groups = x.size() / static_cast<std::size_t>(kSumGroups[i]);
      sums[i].resize(groups);
      less[i].resize(2 * groups);
      run.sums[i] = sums[i].data();
      run.less[i] = less[i].data();
    }
    for (std::int32_t row = 0; row < rows; ++row)  // in two pieces, as threads share it out
      for (const std::int32_t half : {1, 0}) {
        const std::int32_t groups = columns / kRoundGroup, middle = groups / 3;
        table.round({x.data() + row * columns,
                     half == 0 ? 0 : middle,
                     half == 0 ? middle : groups,
                     row,
                     rows,
                     run,
                     {{true, true}, {true, true}}});
      }
  }
  /// Digit 0 (low) to 2 of an input.
  int digit(std::int32_t row, std::int32_t k, int d) const {
    const std::int32_t at = k / kRoundGroup * rows + row;
    return digits[static_cast<std::size_t>(at * 4 * kRoundGroup + k % kRoundGroup / 4 * 16 + 4 * d +
                                           k % 4)];
  }
  std::int64_t integer(std::int32_t row, std::int32_t k) const {
    return digit(row, k, 0) + 128 * (digit(row, k, 1) + 128 * digit(row, k, 2));
  }
  float scale(std::int32_t row, std::int32_t k) const {
    return scales[static_cast<std::size_t>(k / kRoundGroup * rows + row)];
  }
};

void expect_the_references(const RoundedRows& run, const std::vector<float>& x) {
  std::vector<float> scratch(static_cast<std::size_t>(reference::rounded_floats(run.columns)));
  const reference::RoundedRow twin = reference::rounded_at(scratch.data(), run.columns);
  for (std::int32_t row = 0; row < run.rows; ++row) {
    reference::round_row(x.data() + row * run.columns, run.columns, twin);
    for (std::int32_t k = 0; k < run.columns; ++k) {
      const float scale = twin.scales[k / kRoundGroup];
      if (std::isnan(scale)) {
        ASSERT_TRUE(std::isnan(run.scale(row, k)));
        continue;
      }
      ASSERT_EQ(run.scale(row, k), scale);
      ASSERT_EQ(run.digit(row, k, 0), twin.low[k]) << x[static_cast<std::size_t>(k)];
      ASSERT_EQ(run.digit(row, k, 1) + 128 * run.digit(row, k, 2), twin.high[k]);
      for (int d = 0; d < 3; ++d) ASSERT_LE(std::abs(run.digit(row, k, d)), 64);
    }
    for (int i = 0; i < kSumSizes; ++i)
      for (std::int32_t g = 0; g < run.columns / kSumGroups[i]; ++g) {
        std::int32_t high = 0, low = 0;
        for (std::int32_t k = g * kSumGroups[i]; k < (g + 1) * kSumGroups[i]; ++k)
          high += twin.high[k], low += twin.low[k];
        const float scale = twin.scales[g * kSumGroups[i] / kRoundGroup];
        const auto at = static_cast<std::size_t>(g * run.rows + row);
        if (std::isnan(scale)) {
          ASSERT_TRUE(std::isnan(run.sums[i][at]));
          continue;
        }
        ASSERT_EQ(run.sums[i][at], static_cast<float>(128 * high + low) * scale);
        ASSERT_EQ(run.less[i][2 * at], -high);
        ASSERT_EQ(run.less[i][2 * at + 1], -low);
      }
  }
}

TEST(Round, EveryIsaMakesTheReferencesIntegersOfAnyMagnitude) {
  const std::uint64_t seed = 51;
  SCOPED_TRACE("seed " + std::to_string(seed));
  herd::testing::Random random(seed);
  for (const std::int32_t rows : {1, 3, 64}) {
    auto x = random.floats(static_cast<std::size_t>(rows * 320));
    for (std::size_t i = 0; i < x.size(); ++i)  // groups of 32 from 2^-149 to 2^127
      x[i] = std::ldexp(x[i], static_cast<int>(i / kRoundGroup * 37 % 280) - 150);
    for (const KernelTable* table : present_tables()) {
      SCOPED_TRACE(to_string(table->isa));
      expect_the_references(RoundedRows(*table, x, rows), x);
    }
  }
}

TEST(Round, IsToTheNearestOf2To20StepsOfTheLargest) {
  std::vector<float> x(64, 0.0f);
  x[0] = 1.0f;             // 2^19 steps of 2^-19
  x[1] = 2.0f - 0x1p-23f;  // up to 2^20
  x[2] = -x[1];
  x[3] = 1.0f + 0x1p-20f;      // a tie: to the even one below
  x[4] = 1.0f + 3 * 0x1p-20f;  // a tie: to the even one above
  x[5] = -0x1p-20f;            // a tie: to 0
  x[6] = 0x1.8p-20f;           // up to 1
  x[7] = std::numeric_limits<float>::denorm_min();
  x[32] = 0x1p-149f;  // a group of subnormal numbers
  x[33] = -0.0f;
  for (const KernelTable* table : present_tables()) {
    SCOPED_TRACE(to_string(table->isa));
    const RoundedRows run(*table, x, 1);
    EXPECT_EQ(run.scale(0, 0), 0x1p-19f);
    const std::int64_t one = 1 << 19;
    for (const auto& [k, want] : std::vector<std::pair<std::int32_t, std::int64_t>>{
             {0, one}, {1, 2 * one}, {2, -2 * one}, {3, one}, {4, one + 2}, {5, 0}, {6, 1}, {7, 0}})
      EXPECT_EQ(run.integer(0, k), want) << k;
    EXPECT_EQ(run.scale(0, 32), 0x1p-126f);
    EXPECT_EQ(run.integer(0, 32), 0);
    expect_the_references(run, x);
  }
}

TEST(Round, WhatIsNotFiniteSpoilsItsGroupAndNoOther) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()})
    for (const std::size_t at : {32u, 47u, 48u, 63u}) {
      std::vector<float> x(96, 0.5f);
      x[at] = bad;
      for (const KernelTable* table : present_tables()) {
        SCOPED_TRACE(to_string(table->isa));
        const RoundedRows run(*table, x, 1);
        EXPECT_TRUE(std::isnan(run.scale(0, 32)));
        EXPECT_EQ(run.scale(0, 0), 0x1p-20f);
        expect_the_references(run, x);
      }
    }
}

}  // namespace
}  // namespace herd::cpu
