#include "sample/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>
#include <random>
#include <set>

#include "base/rng.h"

namespace {
std::atomic<long> g_allocations{0};
}
// Not inlined, so that the compiler does not pair our free() with its own idea of new.
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++g_allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (void* p = operator new(size, std::nothrow)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}

namespace herd {
namespace {

constexpr std::uint32_t kSeed = 4711;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
using Ids = std::vector<TokenId>;
using Logits = std::vector<float>;

// ---- the slow twin: each step written out on whole copies ----

double slow_log_sum_exp(const Logits& x) {
  long double sum = 0;
  const float m = *std::max_element(x.begin(), x.end());
  for (const float v : x) sum += std::exp(static_cast<long double>(v) - m);
  return static_cast<double>(m + std::log(sum));
}

Logits slow_scores(Logits s, const SamplingParams& p, const Ids& prompt, const Ids& answer) {
  for (const auto& [id, bias] : p.logit_bias) s[static_cast<std::size_t>(id)] += bias;
  std::set<TokenId> seen(prompt.begin(), prompt.end());
  seen.insert(answer.begin(), answer.end());
  for (const TokenId id : seen) {
    float& x = s[static_cast<std::size_t>(id)];
    x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
  }
  for (const TokenId id : std::set<TokenId>(answer.begin(), answer.end())) {
    const auto uses = static_cast<float>(std::count(answer.begin(), answer.end(), id));
    s[static_cast<std::size_t>(id)] -= uses * p.frequency_penalty + p.presence_penalty;
  }
  return s;
}

struct Kept {
  TokenId id;
  double probability;
};
// The distribution that is drawn from, likeliest first: a full sort and no shortcut.
std::vector<Kept> slow_kept(const Logits& s, const SamplingParams& p) {
  Ids order(s.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    return s[static_cast<std::size_t>(a)] > s[static_cast<std::size_t>(b)];
  });
  if (p.top_k > 0 && static_cast<std::size_t>(p.top_k) < order.size())
    order.resize(static_cast<std::size_t>(p.top_k));
  const double largest = s[static_cast<std::size_t>(order[0])];
  std::vector<Kept> kept;
  double sum = 0;
  for (const TokenId id : order) {
    kept.push_back({id, std::exp((s[static_cast<std::size_t>(id)] - largest) / p.temperature)});
    sum += kept.back().probability;
  }
  double reached = 0;
  std::size_t n = 0;
  while (n < kept.size() && (p.top_p == 1.0f || n == 0 || reached < p.top_p * sum))
    reached += kept[n++].probability;
  kept.resize(n);
  std::erase_if(kept, [&](const Kept& k) { return k.probability < p.min_p; });
  sum = 0;
  for (const Kept& k : kept) sum += k.probability;
  for (Kept& k : kept) k.probability /= sum;
  return kept;
}

// Whether `id` is what `u` draws, within `tolerance` at the borders of its share.
bool drawn(std::vector<Kept> kept, double u, TokenId id, double tolerance) {
  std::sort(kept.begin(), kept.end(), [](const Kept& a, const Kept& b) { return a.id < b.id; });
  double low = 0;
  for (const Kept& k : kept) {
    if (k.id == id) return u >= low - tolerance && u <= low + k.probability + tolerance;
    low += k.probability;
  }
  return false;
}

struct Case {
  Logits logits;
  Ids prompt, answer;
  SamplingParams params;
  std::int64_t position = 0;
};
float uniform(std::mt19937& random, float low, float high) {
  return low + (high - low) * static_cast<float>(random() % 4096) / 4096.0f;
}
Case random_case(std::mt19937& random, std::size_t vocab) {
  Case c;
  const bool ties = random() % 3 == 0;
  for (std::size_t i = 0; i < vocab; ++i) {
    const float x = uniform(random, -8, 8);
    c.logits.push_back(random() % 20 == 0 ? -kInf : ties ? std::round(x) : x);
  }
  c.logits[random() % vocab] = 1.0f;
  for (std::size_t n = random() % 20; n > 0; --n)
    c.prompt.push_back(static_cast<TokenId>(random() % vocab));
  for (std::size_t n = random() % 20; n > 0; --n)
    c.answer.push_back(static_cast<TokenId>(random() % std::min<std::size_t>(vocab, 8)));
  SamplingParams& p = c.params;
  p.temperature = random() % 4 == 0 ? 0.0f : uniform(random, 0.05f, 3);
  if (random() % 2) p.top_k = static_cast<int>(random() % (vocab + 3));
  if (random() % 2) p.top_p = uniform(random, 0.01f, 1);
  if (random() % 2) p.min_p = uniform(random, 0, 0.5f);
  if (random() % 2) p.repetition_penalty = uniform(random, 0.5f, 2);
  if (random() % 2) p.presence_penalty = uniform(random, -2, 2);
  if (random() % 2) p.frequency_penalty = uniform(random, -2, 2);
  for (std::size_t n = random() % 4; n > 0; --n)
    p.logit_bias.emplace_back(static_cast<TokenId>(random() % vocab), uniform(random, -5, 5));
  p.seed = random();
  c.position = static_cast<std::int64_t>(random() % 100000);
  return c;
}
Result<Sample> run(Sampler& sampler, const Case& c) {
  return sampler.sample(c.logits, c.params, {c.prompt, c.answer}, c.position);
}

TEST(Sampler, MatchesTheSlowTwin) {
  std::mt19937 random(kSeed);
  for (int i = 0; i < 3000; ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << " case " << i);
    const Case c = random_case(random, i % 50 == 0 ? 2000 : 1 + random() % 200);
    ASSERT_TRUE(validate(c.params, static_cast<std::int32_t>(c.logits.size())).ok());
    Sampler sampler(static_cast<std::int32_t>(c.logits.size()));
    const Result<Sample> got = run(sampler, c);
    ASSERT_TRUE(got.ok());
    const Logits scores = slow_scores(c.logits, c.params, c.prompt, c.answer);
    if (c.params.temperature == 0.0f) {
      ASSERT_EQ(got->id, std::max_element(scores.begin(), scores.end()) - scores.begin());
    } else {
      const double u = counter_uniform(c.params.seed, static_cast<std::uint64_t>(c.position));
      ASSERT_TRUE(drawn(slow_kept(scores, c.params), u, got->id, 1e-9)) << got->id;
    }
    const double want = c.logits[static_cast<std::size_t>(got->id)] - slow_log_sum_exp(c.logits);
    ASSERT_FALSE(!(std::abs(got->logprob - want) <= 1e-6 * (1 + std::abs(want))));
  }
}

TEST(Sampler, ResultDoesNotDependOnEarlierCalls) {
  std::mt19937 random(kSeed + 1);
  Sampler used(300);
  for (int i = 0; i < 500; ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed + 1 << " case " << i);
    const Case c = random_case(random, 300);
    Sampler fresh(300);
    const Result<Sample> a = run(used, c), b = run(fresh, c);
    ASSERT_EQ(a->id, b->id);
    ASSERT_EQ(a->logprob, b->logprob);
    used.logprob(c.logits, 0, static_cast<int>(random() % 10));
  }
}

TEST(Sampler, DrawsByTheDistribution) {
  const Logits logits = {0.0f, 1.0f, -1.0f, 2.0f, 0.5f, 1.5f, -0.5f, -kInf};
  SamplingParams params;
  params.temperature = 0.8f;
  params.seed = 123;
  Sampler sampler(8);
  std::vector<double> seen(8, 0);
  constexpr int kDraws = 50000;
  for (int i = 0; i < kDraws; ++i)
    ++seen[static_cast<std::size_t>(sampler.sample(logits, params, {}, i)->id)];
  double chi2 = 0;
  for (const Kept& k : slow_kept(logits, params)) {
    const double expected = k.probability * kDraws;
    if (expected > 0)
      chi2 += std::pow(seen[static_cast<std::size_t>(k.id)] - expected, 2) / expected;
  }
  EXPECT_EQ(seen[7], 0);
  EXPECT_FALSE(!(chi2 <= 22.46)) << chi2;  // 6 degrees of freedom, 0.1 %
}

TEST(Sampler, TiesGoToTheLowerId) {
  Sampler sampler(40);
  Logits logits(40, 0.5f);
  logits[0] = 0.0f;
  SamplingParams params;
  EXPECT_EQ(sampler.sample(logits, params, {}, 0)->id, 1);
  logits.assign(40, -0.0f);
  logits[20] = 0.0f;
  EXPECT_EQ(sampler.sample(logits, params, {}, 0)->id, 0);
  params.temperature = 1.0f;
  params.top_k = 3;
  for (int i = 0; i < 100; ++i) EXPECT_LT(sampler.sample(logits, params, {}, i)->id, 3);
  params.top_k = 0;
  params.top_p = 0.04f;  // two of forty equal tokens
  for (int i = 0; i < 100; ++i) EXPECT_LT(sampler.sample(logits, params, {}, i)->id, 2);
}

TEST(Sampler, RefusesLogitsThatAreNotFinite) {
  for (const float bad : {kNan, kInf})
    for (const std::size_t at : {0u, 7u, 16u, 36u})
      for (const float temperature : {0.0f, 1.0f}) {
        Sampler sampler(37);
        Logits logits(37, 1.0f);
        logits[at] = bad;
        const auto result =
            sampler.sample(logits, {.temperature = temperature, .logit_bias = {}}, {}, 0);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().code, Code::internal);
        EXPECT_NE(result.error().message.find("token " + std::to_string(at)), std::string::npos);
      }
  Sampler sampler(37);
  Logits logits(37, -kInf);
  EXPECT_FALSE(sampler.sample(logits, {}, {}, 0).ok());
  logits[30] = -5.0f;
  for (const float temperature : {0.0f, 1.0f}) {
    const auto result =
        sampler.sample(logits, {.temperature = temperature, .logit_bias = {}}, {}, 0);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->id, 30);
    EXPECT_EQ(result->logprob, 0.0f);
  }
}

TEST(Sampler, ExtremeValuesStayFinite) {
  Sampler sampler(3);
  const Logits logits = {3e38f, -3e38f, 2e38f};
  SamplingParams params{.temperature = 1e-30f, .repetition_penalty = 1e-6f, .logit_bias = {}};
  const Ids prompt = {2, 2};
  EXPECT_EQ(sampler.sample(logits, params, {prompt, {}}, 0)->id, 2);
  EXPECT_EQ(sampler.sample(logits, {.temperature = 1e-30f, .logit_bias = {}}, {}, 0)->id, 0);
}

TEST(Sampler, IgnoresHistoryIdsOutsideTheVocabulary) {
  Sampler sampler(2);
  const Ids ids = {-1, 2, 1000};
  const SamplingParams params{
      .repetition_penalty = 2.0f, .presence_penalty = 1.0f, .logit_bias = {}};
  EXPECT_EQ(sampler.sample(Logits{1, 2}, params, {ids, ids}, 0)->id, 1);
}

TEST(Sampler, AllocatesNothing) {
  std::mt19937 random(kSeed + 2);
  Sampler sampler(1000);
  for (int i = 0; i < 100; ++i) {
    const Case c = random_case(random, 1000);
    const long before = g_allocations;
    const Result<Sample> result = run(sampler, c);
    const long after = g_allocations;
    ASSERT_TRUE(result.ok());
    ASSERT_EQ(after, before) << "seed " << kSeed + 2 << " case " << i;
  }
}

TEST(Logprob, MatchesTheDoubleReference) {
  std::mt19937 random(kSeed + 3);
  for (int i = 0; i < 200; ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed + 3 << " case " << i);
    const Case c = random_case(random, 1 + random() % 700);
    const double whole = slow_log_sum_exp(c.logits);
    ASSERT_FALSE(!(std::abs(log_sum_exp(c.logits) - whole) <= 1e-12 * (1 + std::abs(whole))));
    const auto id = static_cast<TokenId>(random() % c.logits.size());
    Sampler sampler(static_cast<std::int32_t>(c.logits.size()));
    const TokenLogprob got = sampler.logprob(c.logits, id, 20);
    ASSERT_EQ(got.id, id);
    ASSERT_EQ(got.logprob, static_cast<float>(c.logits[static_cast<std::size_t>(id)] - whole));
    SamplingParams all;
    all.temperature = 1.0f;
    const std::vector<Kept> order = slow_kept(c.logits, all);
    ASSERT_EQ(got.top.size(), std::min<std::size_t>(20, c.logits.size()));
    for (std::size_t k = 0; k < got.top.size(); ++k) {
      ASSERT_EQ(got.top[k].first, order[k].id);
      const double want = c.logits[static_cast<std::size_t>(order[k].id)] - whole;
      ASSERT_TRUE(got.top[k].second == static_cast<float>(want) ||
                  std::abs(got.top[k].second - want) <= 1e-6 * (1 + std::abs(want)));
    }
  }
}

TEST(LogSumExp, NonFinite) {
  EXPECT_TRUE(std::isnan(log_sum_exp(Logits{1, kNan, 2})));
  EXPECT_TRUE(std::isnan(log_sum_exp(Logits{kNan})));
  EXPECT_EQ(log_sum_exp(Logits{1, kInf}), kInf);
  EXPECT_EQ(log_sum_exp(Logits{-kInf, -kInf}), -kInf);
  EXPECT_EQ(log_sum_exp(Logits{-kInf, 3.0f}), 3.0);
}

TEST(Validate, NamesFieldValueAndRange) {
  EXPECT_TRUE(validate({}, 10).ok());
  const auto refused = [](SamplingParams p, const std::string& words) {
    const Status status = validate(p, 10);
    ASSERT_FALSE(status.ok()) << words;
    EXPECT_EQ(status.error().code, Code::invalid_argument);
    EXPECT_NE(status.error().message.find(words), std::string::npos) << status.error().message;
  };
  refused({.temperature = -1, .logit_bias = {}}, "temperature is -1, must be in [0, 100]");
  refused({.temperature = kNan, .logit_bias = {}}, "temperature is nan");
  refused({.temperature = 101, .logit_bias = {}}, "temperature is 101");
  refused({.top_k = -2, .logit_bias = {}}, "top_k is -2");
  refused({.top_p = 0, .logit_bias = {}}, "top_p is 0, must be in (0, 1]");
  refused({.top_p = 1.5f, .logit_bias = {}}, "top_p is 1.5");
  refused({.min_p = 1, .logit_bias = {}}, "min_p is 1, must be in [0, 1)");
  refused({.repetition_penalty = 0, .logit_bias = {}},
          "repetition_penalty is 0, must be in (0, 10]");
  refused({.presence_penalty = 3, .logit_bias = {}}, "presence_penalty is 3, must be in [-2, 2]");
  refused({.frequency_penalty = kNan, .logit_bias = {}}, "frequency_penalty is nan");
  refused({.logit_bias = {{10, 1.0f}}}, "logit_bias id is 10, must be in [0, 10)");
  refused({.logit_bias = {{-1, 1.0f}}}, "logit_bias id is -1");
  refused({.logit_bias = {{3, kInf}}}, "logit_bias of id 3 is inf");
  SamplingParams many;
  many.logit_bias.assign(1025, {1, 0.0f});
  refused(many, "logit_bias has 1025 entries, must be at most 1024");
  many.logit_bias.resize(1024);
  EXPECT_TRUE(validate(many, 10).ok());
}

// ---- only allowed tokens ----

std::vector<std::uint64_t> mask_of(std::size_t vocab, const std::vector<TokenId>& ids) {
  std::vector<std::uint64_t> mask((vocab + 63) / 64, 0);
  for (const TokenId id : ids) mask[static_cast<std::size_t>(id) / 64] |= 1ull << (id % 64);
  return mask;
}

TEST(SamplerAllowed, ChoosesAsIfTheOthersWereImpossible) {
  constexpr std::size_t kVocab = 100;
  const std::vector<TokenId> allowed = {3, 64, 65, 99};
  Sampler sampler(kVocab);
  for (int seed = 0; seed < 200; ++seed) {
    std::vector<float> logits, others_gone;
    for (std::size_t i = 0; i < kVocab; ++i)
      logits.push_back(
          static_cast<float>(6 * counter_uniform(static_cast<std::uint64_t>(seed), i)));
    others_gone.assign(kVocab, -std::numeric_limits<float>::infinity());
    for (const TokenId id : allowed)
      others_gone[static_cast<std::size_t>(id)] = logits[static_cast<std::size_t>(id)];
    SamplingParams p;
    p.temperature = seed % 4 == 0 ? 0.0f : 1.0f;
    p.top_k = seed % 3;
    p.top_p = seed % 5 == 0 ? 0.7f : 1.0f;
    p.repetition_penalty = seed % 7 == 0 ? 1.5f : 1.0f;
    p.seed = static_cast<std::uint64_t>(seed);
    const std::vector<TokenId> history = {3, 4};
    const auto got = sampler.sample(logits, p, {history, {}}, seed, true, mask_of(kVocab, allowed));
    const auto expected = sampler.sample(others_gone, p, {history, {}}, seed, false);
    ASSERT_TRUE(got.ok() && expected.ok()) << "seed " << seed;
    EXPECT_EQ(got->id, expected->id) << "seed " << seed;
    // The log-probability is that among all tokens.
    EXPECT_EQ(got->logprob, sampler.logprob(logits, got->id, 0).logprob);
  }
}

TEST(SamplerAllowed, NothingPossibleIsAnError) {
  Sampler sampler(4);
  const float none = -std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {1.0f, none, 2.0f, none};
  EXPECT_FALSE(sampler.sample(logits, {}, {}, 0, false, mask_of(4, {1, 3})).ok());
  EXPECT_FALSE(sampler.sample(logits, {}, {}, 0, false, mask_of(4, {})).ok());
}

}  // namespace
}  // namespace herd
