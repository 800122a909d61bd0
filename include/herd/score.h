// How likely given texts are: log-probabilities of continuations, many in one ragged batch.
//
//   const std::vector<herd::ScoreRequest> requests = {{{5, 6, 7, 8}, 2}};
//   auto scores = herd::score(*model, requests);
//   (*scores)[0].sum;  // log p(7, 8 | 5, 6)
//
// A score is bitwise that of the same request alone. What requests begin with alike is computed
// once: requests with one context should stand next to each other.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "herd/llama.h"
#include "herd/status.h"
#include "herd/types.h"
#include "herd/vocabulary.h"

namespace herd {

struct ScoreRequest {
  std::vector<TokenId> ids;  // the context, then what is scored
  std::int32_t first = 1;    // ids[first] is the first that is scored: 1 to ids.size()
};

/// Context and continuation encoded as one text. A token that reaches over the border counts to the
/// continuation: the context keeps what both encodings begin with. `first` is 0 or ids.size() where
/// one side has no tokens; score() then refuses it.
ScoreRequest encode_score(const Vocabulary& vocabulary, std::string_view context,
                          std::string_view continuation);

struct ScoreResult {
  std::vector<float> logprobs;       // [ids.size() - first] log p(token | all before it)
  std::vector<std::uint8_t> greedy;  // [ids.size() - first] 1: it is the likeliest (of equals, the
                                     // one with the lowest id)
  double sum = 0.0;                  // of logprobs, in order
  std::string error;                 // if it could not be scored: why; then all else is empty
  bool all_greedy() const;           // true of none
};

struct ScoreOptions {
  /// Each request's result as it comes, not in order.
  std::function<void(std::size_t request, const ScoreResult& result)> on_result = {};
  /// Tokens computed so far; those found computed already are not counted.
  std::function<void(std::int64_t tokens)> on_progress = {};
  /// Polled once a step; true ends all that is not done with an error.
  std::function<bool()> cancelled = {};
};

/// Scores all requests, as many at once as the model's batch_size allows; results in their order.
/// A bad request (unknown id, longer than the context, `first` out of range, logits that are not
/// finite) has an error of its own and the others go on. Clears the model's batch. Errors: none
/// today; a Result so that a lost device can be told. One caller at a time per model.
Result<std::vector<ScoreResult>> score(LlamaModel& model, std::span<const ScoreRequest> requests,
                                       const ScoreOptions& options = {});

}  // namespace herd
