// How far logits are from those of a reference, token by token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "herd/types.h"

namespace cli {

/// One token's comparison.
struct TokenDivergence {
  double kl = 0;                         // of the distribution from the reference's, in nats
  bool same_top = false;                 // both like the same token best (of equals, the lowest id)
  double logit = 0;                      // largest difference of two logits
  std::optional<double> nll_difference;  // of the text's next token, where there is one
};

/// `next`: the token that the text goes on with, or -1. All sums in double. REQUIRES: two rows of
/// one size, at least 1, finite.
TokenDivergence compare(std::span<const float> reference, std::span<const float> logits,
                        herd::TokenId next);

/// Whether every value is finite.
bool all_finite(std::span<const float> logits);
/// The index of the largest, of equals the lowest.
herd::TokenId likeliest(std::span<const float> logits);
/// The largest less the next largest. REQUIRES: at least 2.
float margin(std::span<const float> logits);

struct DivergenceSummary {
  std::int64_t tokens = 0;
  double mean_kl = 0, median_kl = 0, p99_kl = 0, max_kl = 0;
  double same_top = 0;        // share of tokens
  double nll_difference = 0;  // mean over tokens with a next one: above 0, the reference is better
  double max_logit = 0;
};
/// REQUIRES: at least one token.
DivergenceSummary summarise(const std::vector<TokenDivergence>& tokens);

}  // namespace cli
