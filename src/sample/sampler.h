// From a row of logits to a token. Pure functions of (logits, history, parameters, position).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "herd/status.h"
#include "herd/types.h"

namespace herd {

/// Errors name the field, its value and its range (invalid_argument): temperature in [0, 100],
/// top_k >= 0, top_p in (0, 1], min_p in [0, 1), repetition_penalty in (0, 10], presence and
/// frequency in [-2, 2] each, bias ids in [0, vocab), biases finite, at most 1024 of them.
Status validate(const SamplingParams& params, std::int32_t vocab_size);

/// What the penalties look at.
struct SampleHistory {
  std::span<const TokenId> prompt;
  std::span<const TokenId> answer;
};

struct Sample {
  TokenId id = 0;
  float logprob = 0.0f;  // under softmax(logits) before temperature, bias and penalties
};

/// Chooses one token. Holds its scratch so that sampling allocates nothing after construction.
/// Not thread-safe; the result depends on the arguments alone.
class Sampler {
 public:
  explicit Sampler(std::int32_t vocab_size);

  /// Order: bias, penalties, (greedy if temperature is 0: largest, ties to the lower id), temperature,
  /// top_k, top_p, min_p, then the draw with counter_uniform(seed, position).
  /// Error: internal when a logit is not finite (-infinity is allowed if at least one is finite).
  /// REQUIRES: logits.size() == vocab_size, params validated.
  Result<Sample> sample(std::span<const float> logits, const SamplingParams& params,
                        const SampleHistory& history, std::int64_t position);

  /// log softmax(logits)[id] and the `top_n` likeliest tokens. Allocates the answer.
  TokenLogprob logprob(std::span<const float> logits, TokenId id, int top_n);

 private:
  std::vector<float> scores_;          // [vocab]
  std::vector<TokenId> order_;         // [vocab]
  std::vector<std::int32_t> counts_;   // [vocab], all zero between calls
};

/// Log of the sum of exp(logits), in double, in index order: the same wherever it is computed.
double log_sum_exp(std::span<const float> logits);

}  // namespace herd
