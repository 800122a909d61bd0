#include "apps/cli/divergence.h"

#include <gtest/gtest.h>

#include <cmath>

namespace cli {
namespace {

void expect_near(double a, double b, double tolerance) {
  EXPECT_FALSE(!(std::abs(a - b) <= tolerance)) << a << " and " << b;
}

TEST(Divergence, OfTwoSmallDistributions) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL(p || q) = 1/2 ln 2 - 1/4 ln 2.
  const std::vector<float> p = {std::log(2.0f), 0, 0}, q = {5, 5 + std::log(2.0f), 5};
  const TokenDivergence d = compare(p, q, 1);
  expect_near(d.kl, 0.25 * std::log(2.0), 1e-7);
  EXPECT_FALSE(d.same_top);
  expect_near(d.logit, 5 + std::log(2.0), 1e-6);
  ASSERT_TRUE(d.nll_difference);
  expect_near(*d.nll_difference, -std::log(2.0), 1e-7);  // q likes token 1 better
  EXPECT_FALSE(compare(p, q, -1).nll_difference);
}

TEST(Divergence, AShiftOfAllLogitsIsNone) {
  const std::vector<float> p = {1, 2, 3, -4}, q = {101, 102, 103, 96};
  const TokenDivergence d = compare(p, q, 0);
  expect_near(d.kl, 0, 1e-12);
  EXPECT_TRUE(d.same_top);
  expect_near(*d.nll_difference, 0, 1e-12);
}

TEST(Divergence, TiesGoToTheLowerIdAndMarginsAreOfTheTopTwo) {
  EXPECT_EQ(likeliest(std::vector<float>{1, 7, 7}), 1);
  EXPECT_EQ(margin(std::vector<float>{1, 7, 7}), 0.0f);
  EXPECT_EQ(margin(std::vector<float>{9, 7, 8.5f}), 0.5f);
  EXPECT_EQ(margin(std::vector<float>{-3, -1}), 2.0f);
  EXPECT_TRUE(all_finite(std::vector<float>{1, 2}));
  EXPECT_FALSE(all_finite(std::vector<float>{1, NAN}));
  EXPECT_FALSE(all_finite(std::vector<float>{-INFINITY, 2}));
}

TEST(Divergence, SummaryOfAHundredTokens) {
  std::vector<TokenDivergence> tokens;
  for (int i = 100; i >= 1; --i)
    tokens.push_back({static_cast<double>(i), i > 10, i * 0.5,
                      i % 2 == 0 ? std::optional<double>(i) : std::nullopt});
  const DivergenceSummary s = summarise(tokens);
  EXPECT_EQ(s.tokens, 100);
  expect_near(s.mean_kl, 50.5, 1e-12);
  EXPECT_EQ(s.median_kl, 50);
  EXPECT_EQ(s.p99_kl, 99);
  EXPECT_EQ(s.max_kl, 100);
  expect_near(s.same_top, 0.9, 1e-12);
  expect_near(s.nll_difference, 51, 1e-12);
  EXPECT_EQ(s.max_logit, 50);
  EXPECT_EQ(summarise({tokens.back()}).p99_kl, 1);
}

}  // namespace
}  // namespace cli
