// What `herd verify` runs, what it must give, and where something else came out.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "herd/llama.h"

namespace cli {

struct Sequence {
  std::vector<herd::TokenId> ids;  // a prompt, then what the model alone answers, greedily
  std::int32_t prompt = 0;         // tokens of the prompt
  std::int32_t answer = 0;         // tokens of the answer
};

/// Prompts of many lengths out of one text: shorter and longer than a page of keys, some that begin
/// alike; answers left empty. Of a model without a tokeniser, tokens at random. No sequence, its
/// answer included, is longer than `context`.
std::vector<Sequence> default_work(const herd::LlamaModel& model, bool full, std::int32_t context);

/// Logits after every token, each sequence run alone: what every other way must equal.
struct Baseline {
  std::vector<Sequence> sequences;
  std::size_t vocab = 0;
  std::vector<std::vector<float>> rows;  // [sequence] of [tokens][vocab]
  std::string sha256;                    // of all rows, in order, f32 little-endian

  std::int64_t tokens() const;
  std::span<const float> row(std::size_t sequence, std::size_t token) const;
};

/// Fills the answers of `work` and runs it, one sequence after the other. Errors: those of the
/// model; internal, where logits are not finite.
herd::Result<Baseline> make_baseline(herd::LlamaModel& model, std::vector<Sequence> work);

struct Difference {
  std::size_t sequence = 0, token = 0;
  herd::TokenId logit = 0;  // the first that differs, or the token chosen instead
  float got = 0, want = 0;  // its value, or the values of both tokens
  float margin = 0;         // of the baseline's two likeliest tokens there
};

/// Collects what a case gives. Counts each token and keeps the first difference in the order of
/// the work. One thread at a time.
class Comparison {
 public:
  explicit Comparison(const Baseline& baseline) : baseline_(baseline) {}
  /// Bits, not values.
  void add(std::size_t sequence, std::size_t token, std::span<const float> logits);
  /// The token chosen after `token`.
  void add_choice(std::size_t sequence, std::size_t token, herd::TokenId chosen);
  /// The same, where bits are others: only the choice must agree, unless `bound` is not above the
  /// margin of the baseline's.
  void add_likeliest(std::size_t sequence, std::size_t token, std::span<const float> logits,
                     float bound);

  const Baseline& baseline() const { return baseline_; }
  std::int64_t tokens() const { return tokens_; }
  const std::optional<Difference>& first() const { return first_; }

 private:
  void note(const Difference& difference);

  const Baseline& baseline_;
  std::int64_t tokens_ = 0;
  std::optional<Difference> first_;
};

}  // namespace cli
