#include "divergence.h"

#include <algorithm>
#include <cmath>

namespace cli {
namespace {

double log_sum_exp(std::span<const float> logits) {
  const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - largest);
  return largest + std::log(sum);
}

/// The value that `share` of the sorted ones are at or below.
double quantile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

}  // namespace

bool all_finite(std::span<const float> logits) {
  return std::ranges::all_of(logits, [](float x) { return std::isfinite(x); });
}

herd::TokenId likeliest(std::span<const float> logits) {
  return static_cast<herd::TokenId>(std::ranges::max_element(logits) - logits.begin());
}

float margin(std::span<const float> logits) {
  const auto top = static_cast<std::size_t>(likeliest(logits));
  float second = logits[top == 0 ? 1 : 0];
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (i != top) second = std::max(second, logits[i]);
  return logits[top] - second;
}

TokenDivergence compare(std::span<const float> reference, std::span<const float> logits,
                        herd::TokenId next) {
  const double reference_sum = log_sum_exp(reference), sum = log_sum_exp(logits);
  TokenDivergence token;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double p = static_cast<double>(reference[i]) - reference_sum;
    const double q = static_cast<double>(logits[i]) - sum;
    token.kl += std::exp(p) * (p - q);
    const double difference = static_cast<double>(logits[i]) - static_cast<double>(reference[i]);
    token.logit = std::max(token.logit, std::abs(difference));
  }
  token.kl = std::max(token.kl, 0.0);  // it is; its sum may round below
  token.same_top = likeliest(reference) == likeliest(logits);
  if (next >= 0) {
    const auto id = static_cast<std::size_t>(next);
    token.nll_difference = (sum - static_cast<double>(logits[id])) -
                           (reference_sum - static_cast<double>(reference[id]));
  }
  return token;
}

DivergenceSummary summarise(const std::vector<TokenDivergence>& tokens) {
  DivergenceSummary all;
  std::vector<double> kl;
  std::int64_t same = 0, followed = 0;
  for (const TokenDivergence& token : tokens) {
    kl.push_back(token.kl);
    all.mean_kl += token.kl;
    same += token.same_top ? 1 : 0;
    all.max_logit = std::max(all.max_logit, token.logit);
    if (!token.nll_difference) continue;
    ++followed;
    all.nll_difference += *token.nll_difference;
  }
  std::sort(kl.begin(), kl.end());
  const auto n = static_cast<double>(tokens.size());
  all.tokens = std::ssize(tokens);
  all.mean_kl /= n;
  all.median_kl = quantile(kl, 0.5);
  all.p99_kl = quantile(kl, 0.99);
  all.max_kl = kl.back();
  all.same_top = static_cast<double>(same) / n;
  if (followed > 0) all.nll_difference /= static_cast<double>(followed);
  return all;
}

}  // namespace cli
