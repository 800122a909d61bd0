#include "sample/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace herd {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr std::size_t kBlock = 256;
constexpr std::size_t kHeap = 256;  // up to here a heap that few enter beats nth_element

// e^x for x <= 0 to about an ulp, in plain multiplications and additions: the same bits on every
// machine, and loops over it vectorise. Zero below -700; NaN stays NaN.
inline double exp_f64(double x) {
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to an integer
  constexpr double kLn2Hi = 0x1.62e42feep-1, kLn2Lo = 0x1.a39ef35793c76p-33;
  const double bounded = x < -700.0 ? -700.0 : x;
  const double t = bounded * 1.44269504088896340736 + kMagic;
  const double n = t - kMagic;
  const double r = (bounded - n * kLn2Hi) - n * kLn2Lo;
  double p = 1.0 / 6227020800.0;  // Taylor's 1/13!
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const std::uint64_t power = (std::bit_cast<std::uint64_t>(t) << 52) + 0x3ff0000000000000ull;
  const double value = p * std::bit_cast<double>(power);
  return x < -700.0 ? 0.0 : value;
}

// Largest value, and whether any is NaN or +infinity. Lanes, so that the pass vectorises.
struct Scan {
  float largest = -kInfinity;
  bool bad = false;
};
Scan scan(std::span<const float> x) {
  constexpr std::size_t kLanes = 16;
  float largest[kLanes];
  std::int32_t bad[kLanes] = {};
  std::fill_n(largest, kLanes, -kInfinity);
  std::size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes)
    for (std::size_t l = 0; l < kLanes; ++l) {
      largest[l] = x[i + l] > largest[l] ? x[i + l] : largest[l];
      bad[l] |= x[i + l] <= kLargest ? 0 : 1;
    }
  for (; i < x.size(); ++i) {
    largest[0] = x[i] > largest[0] ? x[i] : largest[0];
    bad[0] |= x[i] <= kLargest ? 0 : 1;
  }
  Scan result;
  for (std::size_t l = 0; l < kLanes; ++l) {
    result.largest = std::max(result.largest, largest[l]);
    result.bad = result.bad || bad[l] != 0;
  }
  return result;
}

// log_sum_exp of values whose largest is known and finite; NaN among them gives NaN.
double log_sum_exp_from(std::span<const float> x, float largest) {
  double block[kBlock];
  double sum = 0.0;
  for (std::size_t first = 0; first < x.size(); first += kBlock) {
    const std::size_t n = std::min(kBlock, x.size() - first);
    for (std::size_t i = 0; i < n; ++i)
      block[i] = exp_f64(static_cast<double>(x[first + i]) - static_cast<double>(largest));
    for (std::size_t i = 0; i < n; ++i) sum += block[i];
  }
  return static_cast<double>(largest) + std::log(sum);
}

/// Blocks are looked through whole, which a vector unit does at once.
TokenId first_equal(std::span<const float> x, float value) {
  constexpr std::size_t kLook = 64;
  std::size_t first = 0;
  for (; first + kLook <= x.size(); first += kLook) {
    std::int32_t found = 0;
    for (std::size_t i = 0; i < kLook; ++i) found |= x[first + i] == value ? 1 : 0;
    if (found != 0) break;
  }
  const auto rest = x.subspan(first);
  return static_cast<TokenId>(std::find(rest.begin(), rest.end(), value) - x.begin());
}

float within_f32(float x) {
  return std::clamp(x, -kLargest, kLargest);
}

Error bad_logits(std::span<const float> logits) {
  for (std::size_t id = 0; id < logits.size(); ++id)
    if (!(logits[id] <= kLargest))
      return {Code::internal, fmt::format("logit of token {} is {}, not finite", id, logits[id])};
  return {Code::internal, fmt::format("none of {} logits is finite", logits.size())};
}

Status outside(std::string_view field, double value, std::string_view range) {
  return {Code::invalid_argument, fmt::format("{} is {}, must be {}", field, value, range)};
}

Status validate_bias(const SamplingParams& p, std::int32_t vocab_size) {
  if (p.logit_bias.size() > 1024)
    return {Code::invalid_argument,
            fmt::format("logit_bias has {} entries, must be at most 1024", p.logit_bias.size())};
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || id >= vocab_size)
      return {Code::invalid_argument,
              fmt::format("logit_bias id is {}, must be in [0, {})", id, vocab_size)};
    if (!std::isfinite(bias))
      return {Code::invalid_argument,
              fmt::format("logit_bias of id {} is {}, must be finite", id, bias)};
  }
  return {};
}

}  // namespace

bool adjusts(const SamplingParams& p) {
  return !p.logit_bias.empty() || p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f ||
         p.frequency_penalty != 0.0f;
}

// Comparisons are written so that NaN fails them.
Status validate(const SamplingParams& p, std::int32_t vocab_size) {
  if (!(p.temperature >= 0.0f && p.temperature <= 100.0f))
    return outside("temperature", p.temperature, "in [0, 100]");
  if (p.top_k < 0) return outside("top_k", p.top_k, "at least 0");
  if (!(p.top_p > 0.0f && p.top_p <= 1.0f)) return outside("top_p", p.top_p, "in (0, 1]");
  if (!(p.min_p >= 0.0f && p.min_p < 1.0f)) return outside("min_p", p.min_p, "in [0, 1)");
  if (!(p.repetition_penalty > 0.0f && p.repetition_penalty <= 10.0f))
    return outside("repetition_penalty", p.repetition_penalty, "in (0, 10]");
  if (!(p.presence_penalty >= -2.0f && p.presence_penalty <= 2.0f))
    return outside("presence_penalty", p.presence_penalty, "in [-2, 2]");
  if (!(p.frequency_penalty >= -2.0f && p.frequency_penalty <= 2.0f))
    return outside("frequency_penalty", p.frequency_penalty, "in [-2, 2]");
  return validate_bias(p, vocab_size);
}

TokenId largest_logit(std::span<const float> logits) {
  const Scan found = scan(logits);
  return found.bad || found.largest == -kInfinity ? -1 : first_equal(logits, found.largest);
}

Sampler::Sampler(std::int32_t vocab_size)
    : scores_(static_cast<std::size_t>(vocab_size)),
      weights_(static_cast<std::size_t>(vocab_size)),
      order_(static_cast<std::size_t>(vocab_size)),
      counts_(static_cast<std::size_t>(vocab_size), 0) {}

Result<Sample> Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                               const SampleHistory& history, std::int64_t position,
                               bool with_logprob, std::span<const std::uint64_t> allowed) {
  const Scan raw = scan(logits);
  if (raw.bad || raw.largest == -kInfinity) return bad_logits(logits);
  TokenId id = 0;
  if (params.temperature == 0.0f && !adjusts(params) && allowed.empty()) {
    id = first_equal(logits, raw.largest);
  } else {
    adjust(logits, params, history);
    if (!allowed.empty()) {
      leave_only(allowed);
      if (scan(scores_).largest == -kInfinity)
        return Error{Code::internal, "no allowed token has a finite logit"};
    }
    id = params.temperature == 0.0f
             ? first_equal(scores_, scan(scores_).largest)
             : draw(params, counter_uniform(params.seed, static_cast<std::uint64_t>(position)));
  }
  if (!with_logprob) return Sample{id, 0.0f};
  const double normaliser = log_sum_exp_from(logits, raw.largest);
  const double logit = logits[static_cast<std::size_t>(id)];
  return Sample{id, static_cast<float>(logit - normaliser)};
}

void Sampler::adjust(std::span<const float> logits, const SamplingParams& params,
                     const SampleHistory& history) {
  std::copy(logits.begin(), logits.end(), scores_.begin());
  for (const auto& [id, bias] : params.logit_bias) {
    float& score = scores_[static_cast<std::size_t>(id)];
    if (score != -kInfinity) score = within_f32(score + bias);
  }
  if (params.repetition_penalty != 1.0f) {
    penalise_repetition(history.prompt, params.repetition_penalty);
    penalise_repetition(history.answer, params.repetition_penalty);
    forget(history.prompt);
    forget(history.answer);
  }
  if (params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f)
    penalise_use(history.answer, params.presence_penalty, params.frequency_penalty);
}

void Sampler::leave_only(std::span<const std::uint64_t> allowed) {
  for (std::size_t id = 0; id < scores_.size(); ++id)
    if ((allowed[id / 64] >> (id % 64) & 1) == 0) scores_[id] = -kInfinity;
}

// counts_ marks the ids already penalised, so that each is only once.
void Sampler::penalise_repetition(std::span<const TokenId> ids, float penalty) {
  for (const TokenId id : ids) {
    if (!known(id) || counts_[static_cast<std::size_t>(id)] != 0) continue;
    counts_[static_cast<std::size_t>(id)] = 1;
    float& score = scores_[static_cast<std::size_t>(id)];
    if (score == -kInfinity) continue;
    score = within_f32(score > 0.0f ? score / penalty : score * penalty);
  }
}

void Sampler::forget(std::span<const TokenId> ids) {
  for (const TokenId id : ids)
    if (known(id)) counts_[static_cast<std::size_t>(id)] = 0;
}

void Sampler::penalise_use(std::span<const TokenId> answer, float presence, float frequency) {
  for (const TokenId id : answer)
    if (known(id)) ++counts_[static_cast<std::size_t>(id)];
  for (const TokenId id : answer) {
    if (!known(id) || counts_[static_cast<std::size_t>(id)] == 0) continue;
    const auto uses = static_cast<float>(counts_[static_cast<std::size_t>(id)]);
    counts_[static_cast<std::size_t>(id)] = 0;
    float& score = scores_[static_cast<std::size_t>(id)];
    if (score != -kInfinity) score = within_f32(score - (uses * frequency + presence));
  }
}

bool Sampler::before(TokenId a, TokenId b) const {
  const float x = scores_[static_cast<std::size_t>(a)], y = scores_[static_cast<std::size_t>(b)];
  return x > y || (x == y && a < b);
}

// Brings the `count` likeliest of the candidates after the first `sorted` ones in order behind
// them.
void Sampler::rank_first(std::size_t sorted, std::size_t count) {
  const auto first = order_.begin() + static_cast<std::ptrdiff_t>(sorted);
  const auto middle = first + static_cast<std::ptrdiff_t>(count);
  const auto last = order_.begin() + static_cast<std::ptrdiff_t>(kept_);
  const auto less = [this](TokenId a, TokenId b) { return before(a, b); };
  if (count <= kHeap) {
    std::partial_sort(first, middle, last, less);
    return;
  }
  if (middle != last) std::nth_element(first, middle, last, less);
  std::sort(first, middle, less);
}

// Candidates become, in ascending order, the ids that rank no lower than `last`.
void Sampler::keep_up_to(TokenId last) {
  kept_ = 0;
  const auto vocab = static_cast<TokenId>(scores_.size());
  for (TokenId id = 0; id < vocab; ++id)
    if (!before(last, id)) order_[kept_++] = id;
}

// Weight of each candidate: its probability over the likeliest one's. The difference is divided by
// the temperature in double, so that no temperature overflows.
void Sampler::weigh(float largest, float temperature) {
  double block[kBlock];
  for (std::size_t first = 0; first < kept_; first += kBlock) {
    const std::size_t n = std::min(kBlock, kept_ - first);
    const TokenId* ids = order_.data() + first;
    for (std::size_t i = 0; i < n; ++i) {
      const double score = scores_[static_cast<std::size_t>(ids[i])];
      block[i] = (score - static_cast<double>(largest)) / static_cast<double>(temperature);
    }
    for (std::size_t i = 0; i < n; ++i) block[i] = exp_f64(block[i]);
    for (std::size_t i = 0; i < n; ++i) weights_[static_cast<std::size_t>(ids[i])] = block[i];
  }
}

double Sampler::total_weight() const {
  double total = 0.0;
  for (std::size_t i = 0; i < kept_; ++i) total += weights_[static_cast<std::size_t>(order_[i])];
  return total;
}

// The token with which the likeliest ones' probability reaches p. Ranks only as many as it needs.
TokenId Sampler::last_of_top_p(double p, double total) {
  double sum = 0.0;
  std::size_t sorted = 0;
  for (std::size_t count = 64; sorted < kept_; count *= 4) {
    const std::size_t end = std::min(kept_, sorted + count);
    rank_first(sorted, end - sorted);
    for (; sorted < end; ++sorted) {
      sum += weights_[static_cast<std::size_t>(order_[sorted])];
      if (sum >= p * total) return order_[sorted];
    }
  }
  return order_[kept_ - 1];
}

void Sampler::keep_possible() {
  kept_ = 0;
  for (std::size_t id = 0; id < scores_.size(); ++id) {
    order_[kept_] = static_cast<TokenId>(id);
    kept_ += scores_[id] != -kInfinity;
  }
}

void Sampler::keep_top_k(std::size_t k) {
  if (k == 0 || k >= kept_) return;
  const auto nth = order_.begin() + static_cast<std::ptrdiff_t>(k - 1);
  if (k <= kHeap)
    rank_first(0, k);
  else
    std::nth_element(order_.begin(), nth, order_.begin() + static_cast<std::ptrdiff_t>(kept_),
                     [this](TokenId a, TokenId b) { return before(a, b); });
  keep_up_to(*nth);
}

void Sampler::keep_min_p(double p) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < kept_; ++i)
    if (weights_[static_cast<std::size_t>(order_[i])] >= p) order_[kept++] = order_[i];
  kept_ = kept;
}

// The first candidate, in ascending order, at which the summed weight passes `uniform` of the
// whole.
TokenId Sampler::pick(double uniform) const {
  const double target = uniform * total_weight();
  double sum = 0.0;
  TokenId chosen = order_[0];
  for (std::size_t i = 0; i < kept_ && !(sum > target); ++i) {
    const double weight = weights_[static_cast<std::size_t>(order_[i])];
    if (weight > 0.0) chosen = order_[i];
    sum += weight;
  }
  return chosen;
}

TokenId Sampler::draw(const SamplingParams& params, double uniform) {
  keep_possible();
  keep_top_k(static_cast<std::size_t>(params.top_k));
  weigh(scan(scores_).largest, params.temperature);
  if (params.top_p < 1.0f)
    keep_up_to(last_of_top_p(static_cast<double>(params.top_p), total_weight()));
  keep_min_p(static_cast<double>(params.min_p));
  return pick(uniform);
}

TokenLogprob Sampler::logprob(std::span<const float> logits, TokenId id, int top_n) {
  const double normaliser = log_sum_exp(logits);
  const auto of = [&](TokenId token) {
    return static_cast<float>(static_cast<double>(logits[static_cast<std::size_t>(token)]) -
                              normaliser);
  };
  TokenLogprob result{id, of(id), {}};
  // NaN has no rank: it goes last.
  std::transform(logits.begin(), logits.end(), scores_.begin(),
                 [](float x) { return std::isnan(x) ? -kInfinity : x; });
  kept_ = scores_.size();
  for (std::size_t i = 0; i < kept_; ++i) order_[i] = static_cast<TokenId>(i);
  const std::size_t count = std::min(static_cast<std::size_t>(std::max(top_n, 0)), kept_);
  rank_first(0, count);
  result.top.reserve(count);
  for (std::size_t i = 0; i < count; ++i) result.top.emplace_back(order_[i], of(order_[i]));
  return result;
}

double log_sum_exp(std::span<const float> logits) {
  const float largest = scan(logits).largest;
  if (std::isinf(largest)) {
    const bool nan = std::any_of(logits.begin(), logits.end(), [](float x) { return x != x; });
    return nan ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(largest);
  }
  return log_sum_exp_from(logits, largest);
}

}  // namespace herd
