// herd::score: the values, that company changes no bit, that what is shared is computed once, and
// that what is wrong fails alone.
#include "herd/score.h"

#include <bit>
#include <cmath>
#include <limits>

#include "sample/sampler.h"
#include "tiny_model.h"

namespace herd {
namespace {

using test::Dice;
constexpr std::uint64_t kSeed = 20251125;

ModelOptions small(std::int32_t batch_size) {
  ModelOptions o;
  o.batch_size = batch_size;
  o.context = 160;
  o.max_rows = 40;
  return o;
}

LlamaModel open(std::int32_t batch_size) {
  return test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), small(batch_size));
}

/// Texts of many lengths; some begin alike.
std::vector<ScoreRequest> mixed_requests(int count) {
  Dice dice(kSeed);
  const std::vector<TokenId> beginning = dice.ids(70, 320);
  std::vector<ScoreRequest> requests;
  for (int i = 0; i < count; ++i) {
    ScoreRequest r;
    if (i % 3 != 0) r.ids = beginning;
    for (const TokenId id : dice.ids(dice.roll(2, 80), 320)) r.ids.push_back(id);
    r.first = i % 3 == 1 ? 70 : dice.roll(1, static_cast<std::int32_t>(r.ids.size()));
    requests.push_back(std::move(r));
  }
  return requests;
}

std::vector<ScoreResult> run(LlamaModel& model, const std::vector<ScoreRequest>& requests,
                             const ScoreOptions& options = {}) {
  auto results = score(model, requests, options);
  EXPECT_TRUE(results.ok());
  EXPECT_TRUE(model.check_integrity().ok());
  return std::move(*results);
}

void expect_same(const ScoreResult& a, const ScoreResult& b) {
  EXPECT_EQ(a.error, b.error);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (std::size_t i = 0; i < a.logprobs.size(); ++i)
    EXPECT_EQ(std::bit_cast<std::uint32_t>(a.logprobs[i]),
              std::bit_cast<std::uint32_t>(b.logprobs[i]));
  EXPECT_EQ(a.greedy, b.greedy);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(a.sum), std::bit_cast<std::uint64_t>(b.sum));
}

TEST(Score, IsTheLogProbabilityUnderTheLogits) {
  LlamaModel model = open(2);
  const auto requests = mixed_requests(6);
  const auto results = run(model, requests);
  std::size_t greedy = 0, scored = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto& [ids, first] = requests[i];
    ASSERT_EQ(results[i].error, "");
    ASSERT_EQ(results[i].logprobs.size(), ids.size() - static_cast<std::size_t>(first));
    double sum = 0;
    const Status status = model.forward_all(
        std::vector<std::vector<TokenId>>{ids},
        [&](std::size_t, std::size_t t, std::span<const float> logits) {
          const std::size_t next = t + 1, k = next - static_cast<std::size_t>(first);
          if (next < static_cast<std::size_t>(first) || next == ids.size()) return;
          const auto token = static_cast<std::size_t>(ids[next]);
          const double expected = static_cast<double>(logits[token]) - log_sum_exp(logits);
          EXPECT_FALSE(!(std::abs(static_cast<double>(results[i].logprobs[k]) - expected) <= 1e-5));
          const bool likeliest =
              std::max_element(logits.begin(), logits.end()) - logits.begin() == ids[next];
          EXPECT_EQ(results[i].greedy[k], likeliest ? 1 : 0);
          greedy += likeliest ? 1 : 0;
          ++scored;
          sum += expected;
        });
    ASSERT_TRUE(status.ok());
    EXPECT_FALSE(!(std::abs(results[i].sum - sum) <= 1e-3));
  }
  EXPECT_GT(scored, 100u);
}

TEST(Score, GreedyIsWhatGenerateChooses) {
  LlamaModel model = open(2);
  GenerateRequest ask;
  ask.ids = {5, 6, 7};
  ask.max_tokens = 9;
  ask.ignore_end = true;
  const auto answer = generate(model, {&ask, 1});
  ASSERT_TRUE(answer.ok());
  ScoreRequest request = {ask.ids, 3};
  for (const TokenId id : (*answer)[0].ids) request.ids.push_back(id);
  ScoreRequest other = request;
  other.ids.back() = (other.ids.back() + 1) % 320;
  const auto results = run(model, {request, other});
  EXPECT_TRUE(results[0].all_greedy());
  EXPECT_EQ(results[0].greedy.size(), 9u);
  EXPECT_FALSE(results[1].all_greedy());
  EXPECT_LT(results[1].sum, results[0].sum);
}

TEST(Score, TheSameBitsAloneAndInAnyBatch) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const auto requests = mixed_requests(40);
  std::vector<ScoreResult> alone;
  LlamaModel one = open(1);
  for (const ScoreRequest& request : requests) alone.push_back(run(one, {request})[0]);
  for (const std::int32_t batch_size : {1, 7, 32}) {
    LlamaModel model = open(batch_size);
    std::vector<std::size_t> told;
    ScoreOptions options;
    options.on_result = [&](std::size_t i, const ScoreResult& r) {
      told.push_back(i);
      expect_same(r, alone[i]);
    };
    const auto results = run(model, requests, options);
    for (std::size_t i = 0; i < requests.size(); ++i) expect_same(results[i], alone[i]);
    std::sort(told.begin(), told.end());
    ASSERT_EQ(told.size(), requests.size());
    for (std::size_t i = 0; i < told.size(); ++i) EXPECT_EQ(told[i], i);
  }
}

TEST(Score, ASharedContextIsComputedOnce) {
  LlamaModel model = open(8);
  Dice dice(kSeed + 1);
  const std::vector<TokenId> context = dice.ids(128, 320);
  std::vector<ScoreRequest> requests;
  for (int i = 0; i < 20; ++i) {
    requests.push_back({context, 128});
    for (const TokenId id : dice.ids(4, 320)) requests.back().ids.push_back(id);
  }
  const auto before = model.counters().rows;
  std::int64_t told = 0;
  ScoreOptions options;
  options.on_progress = [&](std::int64_t tokens) { told = tokens; };
  run(model, requests, options);
  const auto rows = model.counters().rows - before;
  // One context, and what follows its last whole page, which the last token's logits need.
  EXPECT_LE(rows, 128u + 20 * (32 + 4));
  EXPECT_EQ(static_cast<std::uint64_t>(told), rows);
}

TEST(Score, WhatIsWrongFailsAlone) {
  LlamaModel model = open(3);
  const ScoreRequest good = {{34, 36, 37, 40}, 2};
  const ScoreResult alone = run(model, {good})[0];
  ASSERT_EQ(alone.logprobs.size(), 2u);
  const std::vector<ScoreRequest> requests = {good,
                                              {{}, 1},
                                              {{1, 320}, 1},
                                              {{1, -1}, 1},
                                              {{1, 2}, 0},
                                              {{1, 2}, 3},
                                              {std::vector<TokenId>(161, 7), 1},
                                              good};
  const auto results = run(model, requests);
  expect_same(results.front(), alone);
  expect_same(results.back(), alone);
  const char* parts[] = {"no tokens", "320", "-1", "must be 1 to 2", "must be 1 to 2", "161"};
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_NE(results[i + 1].error.find(parts[i]), std::string::npos) << results[i + 1].error;
    EXPECT_TRUE(results[i + 1].logprobs.empty());
  }
  const auto nothing = run(model, {{{1, 2}, 2}, {{5}, 1}});
  EXPECT_EQ(nothing[0].error, "");
  EXPECT_TRUE(nothing[0].logprobs.empty());
  EXPECT_TRUE(nothing[0].all_greedy());
  EXPECT_EQ(nothing[1].error, "");
  EXPECT_TRUE(run(model, {}).empty());
}

TEST(Score, CancellingEndsAllThatIsNotDone) {
  LlamaModel model = open(2);
  const auto requests = mixed_requests(30);
  int steps = 0;
  ScoreOptions options;
  options.cancelled = [&] { return ++steps > 6; };
  const auto results = run(model, requests, options);
  EXPECT_EQ(results.front().error, "");
  EXPECT_EQ(results.back().error, "cancelled");
}

TEST(Score, LogitsThatAreNotFiniteFailTheirRequestAlone) {
  test::TinyModel tiny = test::tiny_model({});
  for (std::size_t i = 0; i < 64; ++i)
    tiny.tensors["token_embd.weight"].values[50 * 64 + i] = std::numeric_limits<float>::quiet_NaN();
  tiny.add_matrix("output.weight", quant::Type::F32, 101, 64, 5);
  const test::TempModel file(tiny);
  LlamaModel model = test::load(file.path(), small(4));
  const auto results = run(model, {{{1, 2, 3}, 1}, {{1, 50, 3}, 1}, {{4, 5, 6}, 1}});
  EXPECT_EQ(results[0].error, "");
  EXPECT_NE(results[1].error.find("not finite"), std::string::npos) << results[1].error;
  EXPECT_EQ(results[2].error, "");
}

// ---- on_logits ----

TEST(OnLogits, SeesTheLogitsOfPromptAndAnswer) {
  LlamaModel model = open(3);
  std::vector<GenerateRequest> requests(3);
  std::vector<std::vector<std::vector<float>>> seen(3);
  for (std::size_t i = 0; i < 3; ++i) {
    requests[i].ids = Dice(kSeed + i).ids(30 + 20 * static_cast<std::int32_t>(i), 320);
    requests[i].max_tokens = 8;
    requests[i].ignore_end = true;
    requests[i].prompt_logprobs = i != 2;
    requests[i].on_logits = [&seen, i](std::int32_t position, std::span<const float> logits) {
      if (seen[i].empty()) seen[i].resize(static_cast<std::size_t>(position));  // none before
      EXPECT_EQ(static_cast<std::size_t>(position), seen[i].size());
      seen[i].emplace_back(logits.begin(), logits.end());
    };
  }
  const auto answers = generate(model, requests);
  ASSERT_TRUE(answers.ok());
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<TokenId> all = requests[i].ids;
    all.insert(all.end(), (*answers)[i].ids.begin(), (*answers)[i].ids.end());
    ASSERT_EQ(seen[i].size(), all.size() - 1);  // the last is chosen, and not fed
    std::size_t compared = 0;
    const Status status = model.forward_all(
        std::vector<std::vector<TokenId>>{all},
        [&](std::size_t, std::size_t t, std::span<const float> logits) {
          if (t + 1 == all.size() || seen[i][t].empty()) return;
          ++compared;
          EXPECT_TRUE(std::equal(logits.begin(), logits.end(), seen[i][t].begin())) << t;
        });
    ASSERT_TRUE(status.ok());
    EXPECT_EQ(compared, i == 2 ? 8u : all.size() - 1);
  }
}

}  // namespace
}  // namespace herd
