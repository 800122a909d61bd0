// The scalar maths that every kernel repeats, against the same functions in double.
#include "base/math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace herd {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Distance in units of the last place of the exact value's float.
double ulps(float value, double exact) {
  const float nearest = std::fabs(static_cast<float>(exact));
  const double ulp = double(std::nextafter(nearest, kInfinity)) - double(nearest);
  return std::fabs(double(value) - exact) / ulp;
}
/// Largest error of exp_f32 in ulps over every `stride`-th float of [low, high], of one sign.
double worst_exp_error(float low, float high, std::uint32_t stride) {
  double worst = 0;
  const auto first = std::bit_cast<std::uint32_t>(low), last = std::bit_cast<std::uint32_t>(high);
  for (std::uint32_t bits = std::min(first, last); bits <= std::max(first, last); bits += stride) {
    const float x = std::bit_cast<float>(bits), y = exp_f32(x);
    if (std::isnan(y)) return kInfinity;
    worst = std::max(worst, ulps(y, std::exp(double(x))));
  }
  return worst;
}

TEST(Exp, AtMostOneUlpFromTheExactValue) {
  const double negative = worst_exp_error(-0.0f, -87.0f, 1009);
  const double positive = worst_exp_error(0.0f, 88.0f, 1009);
  EXPECT_FALSE(!(negative <= 1.0)) << negative;
  EXPECT_FALSE(!(positive <= 1.0)) << positive;
}

TEST(Exp, Limits) {
  EXPECT_EQ(exp_f32(0.0f), 1.0f);
  EXPECT_EQ(exp_f32(-0.0f), 1.0f);
  EXPECT_FALSE(!(ulps(exp_f32(-87.0f), std::exp(-87.0)) <= 1));
  EXPECT_FALSE(!(ulps(exp_f32(88.0f), std::exp(88.0)) <= 1));
  EXPECT_EQ(exp_f32(std::nextafter(-87.0f, -kInfinity)), 0.0f);
  EXPECT_FALSE(std::signbit(exp_f32(-1000.0f)));
  EXPECT_EQ(exp_f32(std::nextafter(88.0f, kInfinity)), kInfinity);
  EXPECT_EQ(exp_f32(kInfinity), kInfinity);
  EXPECT_EQ(exp_f32(-kInfinity), 0.0f);
  EXPECT_TRUE(std::isnan(exp_f32(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(exp_f32(std::numeric_limits<float>::denorm_min()), 1.0f);
}

/// Softmax compares scores by their exp: a larger score must never weigh less by more than
/// rounding.
TEST(Exp, RisesButForOneUlp) {
  float before = exp_f32(-87.0f);
  for (float x = -87.0f; x <= 88.0f; x += 0.000977f) {
    const float y = exp_f32(x);
    ASSERT_FALSE(!(y >= std::nextafter(before, 0.0f))) << x;
    before = std::max(before, y);
  }
}

TEST(Silu, FollowsItsFormula) {
  for (float g = -80.0f; g <= 80.0f; g += 0.0371f) {
    const double exact = double(g) / (1 + std::exp(-double(g)));
    // exp, the sum and the division each round once.
    ASSERT_FALSE(!(ulps(silu_f32(g), exact) <= 3.5)) << g;
  }
  EXPECT_EQ(silu_f32(0.0f), 0.0f);
  EXPECT_EQ(silu_f32(-200.0f), 0.0f);
  EXPECT_EQ(silu_f32(200.0f), 200.0f);
  EXPECT_TRUE(std::isnan(silu_f32(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Tree16, AddsInItsFixedOrder) {
  // 2^24 swallows a single 1: only this order of additions gives this sum.
  float s[16] = {0x1.0p24f, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  float by_hand[8];
  for (int l = 0; l < 8; ++l) by_hand[l] = s[l] + s[l + 8];
  for (int l = 0; l < 4; ++l) by_hand[l] = by_hand[l] + by_hand[l + 4];
  for (int l = 0; l < 2; ++l) by_hand[l] = by_hand[l] + by_hand[l + 2];
  EXPECT_EQ(tree16(s), by_hand[0] + by_hand[1]);
  EXPECT_EQ(by_hand[0] + by_hand[1], 0x1.0p24f + 14);
}

}  // namespace
}  // namespace herd
