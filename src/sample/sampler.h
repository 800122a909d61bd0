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

/// Whether bias or penalties change scores before the choice: then the history is needed.
bool adjusts(const SamplingParams& params);

/// What the penalties look at.
struct SampleHistory {
  std::span<const TokenId> prompt;
  std::span<const TokenId> answer;
};

struct Sample {
  TokenId id = 0;
  float logprob = 0.0f;  // under softmax(logits) before temperature, bias and penalties
};

/// The id of the largest logit, the lower one of equals; -1 if one is not finite, as for
/// Sampler::sample.
TokenId largest_logit(std::span<const float> logits);

/// Chooses one token. Holds its scratch so that sampling allocates nothing after construction.
/// Not thread-safe; the result depends on the arguments alone.
class Sampler {
 public:
  explicit Sampler(std::int32_t vocab_size);

  /// Order: bias, penalties, (greedy if temperature is 0: largest, ties to the lower id),
  /// temperature, top_k, top_p, min_p, then the draw with counter_uniform(seed, position). Sums and
  /// the draw's inverse CDF run over the kept ids in ascending order, in double. A bias or penalty
  /// that would overflow f32 stops at the largest finite value. Without `with_logprob` its pass
  /// over the vocabulary is saved and Sample::logprob is 0. Error: internal when a logit is not
  /// finite (-infinity is allowed if at least one is finite). Unless `allowed` is empty, only
  /// tokens with a bit in it are chosen from, as if the others' logits were -infinity;
  /// log-probabilities stay those of all. REQUIRES: logits.size() == vocab_size, params validated,
  /// `allowed` empty or a bit for each token.
  Result<Sample> sample(std::span<const float> logits, const SamplingParams& params,
                        const SampleHistory& history, std::int64_t position,
                        bool with_logprob = true, std::span<const std::uint64_t> allowed = {});

  /// log softmax(logits)[id] and the `top_n` likeliest tokens. Allocates the answer.
  TokenLogprob logprob(std::span<const float> logits, TokenId id, int top_n);

 private:
  void adjust(std::span<const float> logits, const SamplingParams& params,
              const SampleHistory& history);
  void leave_only(std::span<const std::uint64_t> allowed);
  void penalise_repetition(std::span<const TokenId> ids, float penalty);
  void forget(std::span<const TokenId> ids);
  void penalise_use(std::span<const TokenId> answer, float presence, float frequency);
  TokenId draw(const SamplingParams& params, double uniform);
  bool before(TokenId a, TokenId b) const;
  bool known(TokenId id) const { return id >= 0 && static_cast<std::size_t>(id) < counts_.size(); }
  void rank_first(std::size_t sorted, std::size_t count);
  void keep_possible();
  void keep_top_k(std::size_t k);
  void keep_up_to(TokenId last);
  void keep_min_p(double p);
  TokenId pick(double uniform) const;
  void weigh(float largest, float temperature);
  double total_weight() const;
  TokenId last_of_top_p(double p, double total);

  std::size_t kept_ = 0;              // ids in order_ that are still candidates
  std::vector<float> scores_;         // [vocab]
  std::vector<double> weights_;       // [vocab], set for the candidates
  std::vector<TokenId> order_;        // [vocab]
  std::vector<std::int32_t> counts_;  // [vocab], all zero between calls
};

/// Log of the sum of exp(logits), in double, in index order: the same wherever it is computed.
double log_sum_exp(std::span<const float> logits);

}  // namespace herd
