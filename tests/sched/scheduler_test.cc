// The scheduler's rules one by one; history_test.cc plays them all at once.
#include "sched/scheduler.h"

#include <numeric>

#include "fake_model.h"

namespace herd::sched {
namespace {

using Ids = std::vector<TokenId>;

constexpr Limits kLimits = {.context = 64,
                            .max_sequences = 4,
                            .max_rows = 16,
                            .max_logits = 8,
                            .prompt_rows = 6,
                            .kv_pages = 16,
                            .page_size = 4};

/// A prompt that no other begins like.
Ids ids(std::int32_t count, TokenId first) {
  Ids out(static_cast<std::size_t>(count));
  std::iota(out.begin(), out.end(), first * 1000);
  return out;
}

/// Submits, steps with the fake model, and keeps what came out.
class Driver {
 public:
  explicit Driver(const Limits& limits = kLimits) : state(limits), model_(limits) {}

  RequestId ask(Ids prompt, std::int32_t max_tokens, CachePartition partition = 0,
                std::int32_t logits_from = -1) {
    const auto id = submit(state, {std::move(prompt), max_tokens, partition, logits_from});
    EXPECT_TRUE(id.ok()) << id.error().message;
    partitions_[*id] = partition;
    return *id;
  }
  /// One whole step. The share of `failing` meets values that are not finite.
  const Plan& step(RequestId failing = 0) {
    plan(state, step_);
    std::vector<CachePartition> partitions;
    std::ptrdiff_t poisoned = -1;
    for (const Share& share : step_.shares) {
      partitions.push_back(partitions_.at(share.id));
      if (share.id == failing) poisoned = &share - step_.shares.data();
    }
    const auto logits = model_.run(step_.batch, partitions, poisoned);
    std::vector<Outcome> outcomes(step_.shares.size());
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      const Share& share = step_.shares[i];
      if (share.n_logits == 0) continue;
      const auto& last = logits[static_cast<std::size_t>(share.first_logit + share.n_logits - 1)];
      outcomes[i] = {last.token, last.finite ? FinishReason::none : FinishReason::error};
    }
    std::vector<Event> events;
    commit(state, step_, outcomes, events);
    for (const Event& e : events) {
      if (e.token >= 0) answers[e.id].push_back(e.token);
      if (e.end != FinishReason::none) ends[e.id] = e.end;
    }
    const Status status = check_integrity(state);
    EXPECT_TRUE(status.ok()) << status.error().message;
    return step_;
  }
  void run() {
    for (int i = 0; !state.sequences.empty(); ++i) {
      ASSERT_LT(i, 1000);
      step();
    }
  }
  /// Rows of a request in the last step.
  std::int32_t rows(RequestId id) const {
    for (const Share& share : step_.shares)
      if (share.id == id) return share.n_rows;
    return 0;
  }

  State state;
  std::map<RequestId, Ids> answers;
  std::map<RequestId, FinishReason> ends;

 private:
  test::FakeModel model_;
  std::map<RequestId, CachePartition> partitions_;
  Plan step_;
};

void expect_refused(const Request& request, const std::string& words) {
  Driver d;
  const auto id = submit(d.state, request);
  ASSERT_FALSE(id.ok());
  EXPECT_NE(id.error().message.find(words), std::string::npos) << id.error().message;
  EXPECT_TRUE(d.state.sequences.empty());
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  expect_refused({{}, 4, 0, false}, "no tokens");
  expect_refused({{1}, -1, 0, false}, "max_tokens -1");
  expect_refused({ids(60, 1), 6, 0, false},
                 "60 tokens and max_tokens 6 need 65 positions, the context holds 64");
  Limits small = kLimits;
  small.kv_pages = 3;
  const Status status = check(small, 10, 4);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message,
            "a prompt of 10 tokens and max_tokens 4 need 4 KV pages of 4 tokens, the pool has 3");
  EXPECT_TRUE(check(small, 10, 3).ok());  // the last token is never fed
  EXPECT_TRUE(check(kLimits, 60, 5).ok());
}

TEST(Scheduler, LimitsMustLetEverySequenceRun) {
  EXPECT_TRUE(check(kLimits).ok());
  Limits l = kLimits;
  l.max_logits = 3;
  EXPECT_EQ(check(l).error().message, "max_logits 3: at least 4");
  l = kLimits, l.max_rows = 3;
  EXPECT_EQ(check(l).error().message, "max_rows 3: at least 4");
  l = kLimits, l.prompt_rows = 0;
  EXPECT_EQ(check(l).error().message, "prompt_rows 0: at least 1");
}

TEST(Scheduler, StreamsGoFirstAndPromptsComeInChunks) {
  Driver d;
  const RequestId stream = d.ask(ids(3, 1), 30);
  d.step();
  const RequestId prompt = d.ask(ids(20, 2), 2);
  for (const std::int32_t expected : {6, 6, 6, 2}) {
    d.step();
    EXPECT_EQ(d.rows(stream), 1);
    EXPECT_EQ(d.rows(prompt), expected);
  }
  EXPECT_EQ(d.answers[prompt].size(), 1u);
  EXPECT_EQ(d.answers[stream].size(), 5u);
}

TEST(Scheduler, WithoutStreamsPromptsTakeTheWholeStepOldestFirst) {
  Driver d;
  const RequestId a = d.ask(ids(20, 1), 2), b = d.ask(ids(20, 2), 2);
  d.step();
  EXPECT_EQ(d.rows(a), 16);
  EXPECT_EQ(d.rows(b), 0);
  d.step();
  EXPECT_EQ(d.rows(a), 4);
  EXPECT_EQ(d.rows(b), 12);
}

TEST(Scheduler, TheOldestWaitsForPagesAndNobodyOvertakes) {
  Driver d;  // 16 pages
  const RequestId a = d.ask(ids(40, 1), 4), b = d.ask(ids(30, 2), 4), c = d.ask(ids(2, 3), 4);
  for (int i = 0; i < 40 && d.ends.count(a) == 0; ++i) {
    d.step();
    EXPECT_EQ(d.rows(b), 0);
    EXPECT_EQ(d.rows(c), 0);
  }
  d.step();
  EXPECT_GT(d.rows(b), 0);
  EXPECT_EQ(d.state.counters.preemptions, 0u);
  d.run();
  EXPECT_EQ(d.answers[c], test::answer_alone(ids(2, 3), 4));
}

TEST(Scheduler, AtMostMaxSequencesRun) {
  Driver d;
  for (TokenId i = 0; i < 6; ++i) d.ask(ids(2, i), 3);
  d.step();
  EXPECT_EQ(d.state.running, 4u);
  EXPECT_EQ(d.answers.size(), 4u);
}

TEST(Scheduler, AFullPoolSendsTheYoungestBackAndChangesNoAnswer) {
  Limits l = kLimits;
  l.kv_pages = 9;
  Driver d(l);
  const RequestId a = d.ask(ids(8, 1), 20), b = d.ask(ids(8, 2), 20);
  d.step();
  EXPECT_EQ(d.state.running, 2u);
  const RequestId c = d.ask(ids(20, 3), 2);
  for (int i = 0; i < 40 && d.state.counters.preemptions == 0; ++i) d.step();
  ASSERT_EQ(d.state.counters.preemptions, 1u);
  EXPECT_EQ(d.state.sequences[d.state.running].id, b);  // at the front of those that wait
  EXPECT_TRUE(d.state.sequences[1].table.pages().empty());
  EXPECT_EQ(d.ends.count(a), 0u);
  EXPECT_EQ(d.answers.count(c), 0u);
  d.run();
  EXPECT_EQ(d.answers[a], test::answer_alone(ids(8, 1), 20));
  EXPECT_EQ(d.answers[b], test::answer_alone(ids(8, 2), 20));
  EXPECT_EQ(d.answers[c], test::answer_alone(ids(20, 3), 2));
}

TEST(Scheduler, CancelFreesPagesAtOnce) {
  Driver d;
  const RequestId a = d.ask(ids(20, 1), 4), b = d.ask(ids(2, 2), 4);
  d.step();
  const std::int32_t used = d.state.kv.pool().used();
  EXPECT_EQ(used, 4);
  EXPECT_TRUE(cancel(d.state, a));
  EXPECT_EQ(d.state.kv.pool().used(), 0);
  EXPECT_FALSE(cancel(d.state, a));
  EXPECT_FALSE(cancel(d.state, 99));
  d.run();
  EXPECT_EQ(d.answers[b], test::answer_alone(ids(2, 2), 4));
  EXPECT_EQ(d.answers.count(a), 0u);
}

TEST(Scheduler, AFailureEndsOneRequestAndLeavesNothingBehind) {
  Driver d;
  const RequestId a = d.ask(ids(14, 1), 4), b = d.ask(ids(2, 2), 4);
  d.step(a);
  EXPECT_EQ(d.ends[a], FinishReason::error);
  EXPECT_EQ(d.state.kv.pool().cached(), 0);  // its pages may hold anything
  const RequestId again = d.ask(ids(14, 1), 4);
  d.run();
  EXPECT_EQ(d.answers[b], test::answer_alone(ids(2, 2), 4));
  EXPECT_EQ(d.answers[again], test::answer_alone(ids(14, 1), 4));
}

TEST(Scheduler, ASharedPrefixIsNotComputedAgain) {
  Driver d;
  d.ask(ids(12, 1), 6);
  d.run();
  const RequestId same = d.ask(ids(12, 1), 6);
  d.step();
  EXPECT_EQ(d.rows(same), 4);  // two pages; the third holds the token whose logits are wanted
  EXPECT_EQ(d.state.counters.cached_tokens, 8u);
  const RequestId longer = d.ask(ids(13, 1), 6);
  d.step();
  EXPECT_EQ(d.rows(longer), 1);
  const RequestId other = d.ask(ids(12, 1), 6, /*partition=*/7);
  d.step();
  EXPECT_GT(d.rows(other), 4);
  d.run();
  EXPECT_EQ(d.answers[same], test::answer_alone(ids(12, 1), 6));
  EXPECT_EQ(d.answers[longer], test::answer_alone(ids(13, 1), 6));
  EXPECT_EQ(d.answers[other], test::answer_alone(ids(12, 1), 6));
}

TEST(Scheduler, AnAnswerIsAPrefixToo) {
  Driver d;
  const RequestId first = d.ask(ids(6, 1), 10);
  d.run();
  Ids turn = ids(6, 1);
  turn.insert(turn.end(), d.answers[first].begin(), d.answers[first].end());
  turn.push_back(5);
  const RequestId next = d.ask(turn, 3);
  d.step();
  EXPECT_EQ(d.rows(next), 17 - 12);  // 15 were fed: three full pages
  d.run();
  EXPECT_EQ(d.answers[next], test::answer_alone(turn, 3));
}

TEST(Scheduler, SamplesOfOnePromptComputeItOnce) {
  Driver d;
  const RequestId first = d.ask(ids(14, 1), 4), second = d.ask(ids(14, 1), 4),
                  third = d.ask(ids(14, 1), 4);
  d.step();
  EXPECT_EQ(d.rows(first), 14);
  EXPECT_EQ(d.rows(second) + d.rows(third), 0);
  d.step();
  EXPECT_EQ(d.rows(second), 2);
  EXPECT_EQ(d.rows(third), 2);
  EXPECT_EQ(d.state.kv.pool().used(), 3 + 3);  // three pages for all, and each its own last
  d.run();
  for (const RequestId id : {first, second, third})
    EXPECT_EQ(d.answers[id], test::answer_alone(ids(14, 1), 4));
}

TEST(Scheduler, PromptLogitsComeOnceForEveryToken) {
  Driver d;
  d.ask(ids(20, 1), 1);
  d.run();
  const RequestId id = d.ask(ids(20, 1), 2, 0, /*logits_from=*/0);
  for (const std::int32_t expected : {8, 8, 4}) {  // the cache knows the page, not its logits
    const Plan& p = d.step();
    EXPECT_EQ(p.shares[0].n_rows, expected);
    EXPECT_EQ(p.shares[0].n_logits, expected);
    EXPECT_EQ(p.shares[0].chooses, expected == 4);
  }
  d.run();
  EXPECT_EQ(d.answers[id], test::answer_alone(ids(20, 1), 2));
}

TEST(Scheduler, NoTokensAskedForEndsAfterThePrompt) {
  Driver d;
  const RequestId id = d.ask(ids(6, 1), 0, 0, true);
  const Plan& p = d.step();
  EXPECT_EQ(p.shares[0].n_logits, 6);
  EXPECT_FALSE(p.shares[0].chooses);
  EXPECT_EQ(d.ends[id], FinishReason::length);
  EXPECT_TRUE(d.answers[id].empty());
}

TEST(Scheduler, AStepCanBePlannedBeforeTheLastIsCommitted) {
  State state(kLimits);
  ASSERT_TRUE(submit(state, {ids(3, 1), 2, 0, false}).ok());
  ASSERT_TRUE(submit(state, {ids(2, 2), 1, 0, false}).ok());
  Plan first, second, third;
  plan(state, first);
  plan(state, second);
  EXPECT_EQ(second.batch.ids, (Ids{-1}));  // what row 0 of the first step's logits chooses
  EXPECT_EQ(second.batch.positions, (std::vector<std::int32_t>{3}));
  std::vector<Event> events;
  commit(state, first, std::vector<Outcome>{{7, {}}, {8, {}}}, events);
  plan(state, third);
  EXPECT_TRUE(third.shares.empty());  // the second step chooses the last token
  commit(state, second, std::vector<Outcome>{{9, {}}}, events);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].token, 7);
  EXPECT_EQ(events[1].end, FinishReason::length);
  EXPECT_EQ(events[2].token, 9);
  EXPECT_EQ(events[2].end, FinishReason::length);
  EXPECT_TRUE(state.sequences.empty());
  EXPECT_TRUE(check_integrity(state).ok());
}

TEST(Scheduler, TheBatchKeepsItsInvariants) {
  Driver d;
  d.ask(ids(5, 1), 3);
  d.ask(ids(6, 2), 3);
  const Batch& b = d.step().batch;
  EXPECT_EQ(b.n_rows(), 11);
  EXPECT_EQ(b.ids[5], 2000);
  EXPECT_EQ(b.positions, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(b.logit_rows, (std::vector<std::int32_t>{4, 10}));
  ASSERT_EQ(b.sequences.size(), 2u);
  EXPECT_EQ(b.sequences[1].first_row, 5);
  EXPECT_EQ(b.sequences[1].n_rows, 6);
  EXPECT_EQ(b.sequences[1].kv_length, 6);
  EXPECT_EQ(b.sequences[1].first_page, 2);
  EXPECT_EQ(b.block_table, (std::vector<std::int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(b.slots[10], 3 * 4 + 1);
}

}  // namespace
}  // namespace herd::sched
