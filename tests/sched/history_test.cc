// Random histories: requests come, are cancelled, lose their reader, fill the pool, meet logits
// that are not finite; steps are committed at once or one step late. After every step the promises
// of sched/scheduler.h are checked, and every answer is held against the same request alone.
//
// A failure names its seed. To run one again: --gtest_filter='Seeds/History.Holds/N', N being the
// seed divided by kPerBlock.
#include <algorithm>
#include <deque>
#include <optional>

#include "fake_model.h"

namespace herd::sched {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kPerBlock = 100;
#else
constexpr std::uint64_t kPerBlock = 2000;
#endif
constexpr std::uint64_t kBlocks = 50;

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : seed_(seed) {}
  /// In [low, high].
  std::int32_t roll(std::int32_t low, std::int32_t high) {
    const auto bits = counter_bits(seed_, position_++) >> 32;
    return low + static_cast<std::int32_t>(bits % static_cast<std::uint64_t>(high - low + 1));
  }
  bool one_in(std::int32_t n) { return roll(1, n) == 1; }

 private:
  std::uint64_t seed_, position_ = 0;
};

/// What the outside knows of a request.
struct Client {
  Request request;
  std::int32_t initial_logit = 0;  // first position whose logits it wants
  std::int32_t logits_seen = 0;
  std::vector<TokenId> alone;   // the whole answer, computed without a scheduler
  std::vector<TokenId> answer;  // so far
  bool ran = false, poisoned = false, ended = false;
  std::int32_t latest_end = 0;  // in steps: the bound on waiting
  bool stops = false;           // its answer ends at kStop
  bool reads = true;            // a slow reader does not, and is cancelled when its queue is full
  std::int32_t unread = 0;
};

/// What happened in all histories of a block: proof that they visit the hard places.
struct Seen {
  std::uint64_t preemptions = 0, cached_tokens = 0, evictions = 0, poisoned = 0, cancelled = 0,
                stopped = 0, waited = 0, late = 0;
};

constexpr TokenId kStop = 0;

class Play {
 public:
  Play(std::uint64_t seed, Seen& seen)
      : dice_(seed), seen_(seen), state_(limits()), model_(state_.limits) {
    late_ = dice_.one_in(3);
    to_come_ = dice_.roll(1, 24);
    nan_one_in_ = dice_.one_in(3) ? 8 : 1000;
    cancel_one_in_ = dice_.one_in(3) ? 6 : 40;
    for (std::vector<TokenId>& base : bases_) base = random_ids(dice_.roll(1, 20));
  }

  void run() {
    for (step_ = 0; to_come_ > 0 || !state_.sequences.empty() || open_; ++step_) {
      ASSERT_LT(step_, 3000) << "somebody never ends";
      while (to_come_ > 0 && dice_.one_in(3)) come();
      go();
      step();
      if (testing::Test::HasFatalFailure() || testing::Test::HasNonfatalFailure()) return;
    }
    EXPECT_EQ(state_.kv.pool().used(), 0);
    for (const auto& [id, client] : clients_) EXPECT_TRUE(client.ended) << "request " << id;
    seen_.preemptions += state_.counters.preemptions;
    seen_.cached_tokens += state_.counters.cached_tokens;
    seen_.late += late_ ? 1 : 0;
  }

 private:
  Limits limits() {
    Limits l;
    l.page_size = 1 << dice_.roll(0, 3);
    l.kv_pages = std::max(2, dice_.roll(6, 64) / l.page_size);
    l.context = dice_.roll(8, 48);
    l.max_sequences = dice_.roll(1, 5);
    l.max_rows = l.max_sequences + dice_.roll(0, 12);
    l.max_logits = l.max_sequences + dice_.roll(0, 6);
    l.prompt_rows = dice_.roll(1, l.max_rows);
    EXPECT_TRUE(check(l).ok());
    return l;
  }

  std::vector<TokenId> random_ids(std::int32_t count) {
    std::vector<TokenId> ids;
    for (std::int32_t i = 0; i < count; ++i) ids.push_back(dice_.roll(0, 2));
    return ids;
  }

  // ---- what the outside does ----

  void come() {
    --to_come_;
    Request request;
    request.prompt = bases_[static_cast<std::size_t>(dice_.roll(0, 2))];
    request.prompt.resize(
        static_cast<std::size_t>(dice_.roll(1, static_cast<std::int32_t>(request.prompt.size()))));
    if (dice_.one_in(3))
      for (const TokenId id : random_ids(dice_.roll(1, 6))) request.prompt.push_back(id);
    request.max_tokens = dice_.roll(0, 16);
    request.partition = dice_.one_in(4) ? 1 : 0;
    if (dice_.one_in(5))
      request.logits_from = dice_.roll(0, static_cast<std::int32_t>(request.prompt.size()) - 1);
    const std::int32_t copies = dice_.one_in(4) ? 3 : 1;  // samples of one prompt
    for (std::int32_t i = 0; i < copies; ++i) submit_one(request);
  }

  void submit_one(const Request& request) {
    const std::size_t before = state_.sequences.size();
    const auto id = submit(state_, request);
    ASSERT_EQ(id.ok(), check(state_.limits, std::ssize(request.prompt), request.max_tokens).ok());
    if (!id.ok()) {
      EXPECT_EQ(state_.sequences.size(), before);
      return;
    }
    Client& c = clients_[*id];
    c.request = request;
    c.initial_logit = request.logits_from >= 0
                          ? request.logits_from
                          : static_cast<std::int32_t>(request.prompt.size()) - 1;
    c.alone = test::answer_alone(request.prompt, request.max_tokens);
    c.stops = dice_.one_in(2);
    c.reads = !dice_.one_in(8);
    // The oldest gets a row in every step; late commits may cost it a step for each token.
    std::int32_t rows = 0;
    for (const Sequence& q : state_.sequences) rows += q.prompt + q.max_tokens + 1;
    c.latest_end = step_ + rows * (late_ ? 2 : 1) + 2;
  }

  void go() {
    for (auto& [id, client] : clients_) {
      if (client.ended) continue;
      const bool gone = dice_.one_in(cancel_one_in_ * static_cast<std::int32_t>(clients_.size()));
      const bool slow = client.unread > 6;
      if (!gone && !slow) continue;
      EXPECT_TRUE(cancel(state_, id));
      EXPECT_FALSE(cancel(state_, id));
      client.ended = true;
      ++seen_.cancelled;
      check_pages();  // its pages are free now, not a step later
    }
  }

  // ---- a step ----

  struct Step {
    Plan plan;
    std::vector<CachePartition> partitions;
    std::vector<RequestId> poisoned;
  };

  void step() {
    Step next = planned();
    if (late_) {
      if (dice_.one_in(4)) go();  // cancelled while steps are on their way
      if (open_) finish(*open_);
      open_.reset();
      if (!next.plan.shares.empty()) open_ = std::move(next);
      if (open_ && dice_.one_in(5)) {
        finish(*open_);
        open_.reset();
      }
    } else {
      finish(next);
    }
    check_pages();
  }

  Step planned() {
    Step next;
    const std::vector<RequestId> streams = running_streams();
    const std::int32_t cached = state_.kv.pool().cached();
    std::map<RequestId, std::int32_t> lengths;
    for (const Sequence& q : state_.sequences) lengths[q.id] = q.table.length();
    plan(state_, next.plan);
    for (const Share& share : next.plan.shares)
      EXPECT_GE(share.position, lengths[share.id]) << "sent back and let in again at once";
    if (state_.kv.pool().cached() < cached) ++seen_.evictions;
    check_plan(next.plan, streams);
    for (const Share& share : next.plan.shares)
      next.partitions.push_back(clients_.at(share.id).request.partition);
    return next;
  }

  void finish(const Step& s) {
    const std::int32_t n = static_cast<std::int32_t>(s.plan.shares.size());
    const std::ptrdiff_t poisoned = n > 0 && dice_.one_in(nan_one_in_) ? dice_.roll(0, n - 1) : -1;
    if (poisoned >= 0)
      clients_.at(s.plan.shares[static_cast<std::size_t>(poisoned)].id).poisoned = true;
    const auto logits = model_.run(s.plan.batch, s.partitions, poisoned);
    std::vector<Outcome> outcomes;
    for (const Share& share : s.plan.shares) outcomes.push_back(outcome(share, logits));
    std::vector<Event> events;
    commit(state_, s.plan, outcomes, events);
    for (const Event& event : events) take(event);
  }

  Outcome outcome(const Share& share, const std::vector<test::FakeModel::Logits>& logits) {
    Client& c = clients_.at(share.id);
    Outcome out;
    for (std::int32_t i = 0; i < share.n_logits; ++i) {
      const auto& row = logits[static_cast<std::size_t>(share.first_logit + i)];
      if (!row.finite) return {-1, FinishReason::error};
      // Every position from the first wanted one, once each, in order.
      if (!c.ended) {
        EXPECT_EQ(share.position + share.n_rows - share.n_logits + i,
                  c.initial_logit + c.logits_seen++);
      }
      if (share.chooses && i + 1 == share.n_logits) out.token = row.token;
    }
    if (share.chooses && c.stops && out.token == kStop) out.end = FinishReason::stop;
    return out;
  }

  void take(const Event& event) {
    Client& c = clients_.at(event.id);
    EXPECT_FALSE(c.ended) << "an event after the end";
    if (event.token >= 0) {
      const std::size_t i = c.answer.size();
      ASSERT_LT(i, c.alone.size()) << "request " << event.id;
      EXPECT_EQ(event.token, c.alone[i]) << "request " << event.id << ", token " << i;
      c.answer.push_back(event.token);
      if (!c.reads) ++c.unread;
    }
    if (event.end == FinishReason::none) return;
    c.ended = true;
    EXPECT_LE(step_, c.latest_end) << "request " << event.id << " waited too long";
    if (event.end == FinishReason::error) {
      EXPECT_TRUE(c.poisoned) << "request " << event.id << " caught another's failure";
      ++seen_.poisoned;
    } else if (event.end == FinishReason::stop) {
      EXPECT_EQ(event.token, kStop);
      ++seen_.stopped;
    } else {
      EXPECT_EQ(event.end, FinishReason::length);
      EXPECT_EQ(c.answer.size(), c.alone.size());
    }
  }

  // ---- invariants ----

  std::vector<RequestId> running_streams() const {
    std::vector<RequestId> ids;
    for (std::size_t i = 0; i < state_.running; ++i) {
      const Sequence& q = state_.sequences[i];
      const bool last = static_cast<std::int32_t>(q.ids.size()) + q.open == q.prompt + q.max_tokens;
      const auto known = static_cast<std::int32_t>(q.ids.size()) + q.open;
      if (!last && known > q.prompt && known - q.table.length() == 1) ids.push_back(q.id);
    }
    return ids;
  }

  void check_pages() {
    const Status status = check_integrity(state_);
    ASSERT_TRUE(status.ok()) << status.error().message;
    std::vector<bool> used(static_cast<std::size_t>(state_.limits.kv_pages), false);
    for (const Sequence& q : state_.sequences)
      for (const PageId page : q.table.pages()) used[static_cast<std::size_t>(page)] = true;
    const PagePool& pool = state_.kv.pool();
    const auto counted = static_cast<std::int32_t>(std::ranges::count(used, true));
    EXPECT_EQ(pool.free() + counted + pool.cached(), pool.total());
    EXPECT_EQ(pool.used(), counted);
  }

  void check_plan(const Plan& p, const std::vector<RequestId>& streams) {
    const Limits& l = state_.limits;
    EXPECT_LE(p.batch.n_rows(), l.max_rows);
    EXPECT_LE(std::ssize(p.batch.logit_rows), l.max_logits);
    EXPECT_LE(std::ssize(p.shares), l.max_sequences);
    EXPECT_LE(state_.running, static_cast<std::size_t>(l.max_sequences));
    check_slots(p.batch);
    std::int32_t prompt_rows = 0;
    std::vector<RequestId> fed;
    for (const Share& share : p.shares) {
      fed.push_back(share.id);
      if (share.n_rows > 1) prompt_rows += share.n_rows;
    }
    for (std::size_t i = 0; i < state_.running; ++i) {
      const RequestId id = state_.sequences[i].id;
      EXPECT_TRUE(clients_.at(id).ran || id > last_to_start_) << "somebody was overtaken";
      last_to_start_ = std::max(last_to_start_, id);
      clients_.at(id).ran = true;
    }
    std::int32_t served = 0;
    for (const RequestId id : streams) {
      const bool gets_row = std::ranges::find(fed, id) != fed.end();
      served += gets_row ? 1 : 0;
      const bool runs =
          std::any_of(state_.sequences.begin(),
                      state_.sequences.begin() + static_cast<std::ptrdiff_t>(state_.running),
                      [&](const Sequence& q) { return q.id == id; });
      EXPECT_TRUE(gets_row || !runs || state_.kv.available() == 0) << "stream " << id << " waits";
    }
    EXPECT_TRUE(served == 0 || prompt_rows <= l.prompt_rows) << "streams wait for prompts";
    if (state_.sequences.empty()) return;
    const Sequence& oldest = state_.sequences[0];
    EXPECT_TRUE(state_.running > 0);
    const bool all_on_its_way = open_ && oldest.table.length() >= oldest.prompt;
    EXPECT_TRUE(std::ranges::find(fed, oldest.id) != fed.end() || all_on_its_way)
        << "the oldest does not get on";
    if (fed.size() < state_.running) ++seen_.waited;
  }

  /// Rows are written to pages that one sequence owns, and nobody else will ever read for its own.
  void check_slots(const Batch& batch) {
    std::vector<std::int32_t> slots = batch.slots;
    std::ranges::sort(slots);
    EXPECT_TRUE(std::ranges::adjacent_find(slots) == slots.end()) << "a slot is written twice";
    for (const std::int32_t slot : slots) {
      const PageId page = slot / state_.limits.page_size;
      EXPECT_EQ(state_.kv.pool().references(page), 1) << "page " << page << " is written";
      EXPECT_FALSE(state_.kv.shared(page)) << "page " << page << " is written";
    }
  }

  Dice dice_;
  Seen& seen_;
  State state_;
  test::FakeModel model_;
  bool late_ = false;  // commit each step only after the next one is planned
  std::int32_t step_ = 0, to_come_ = 0, nan_one_in_ = 0, cancel_one_in_ = 0;
  std::vector<TokenId> bases_[3];
  std::map<RequestId, Client> clients_;
  std::optional<Step> open_;
  RequestId last_to_start_ = 0;
};

class History : public testing::TestWithParam<std::uint64_t> {};

TEST_P(History, Holds) {
  Seen seen;
  for (std::uint64_t i = 0; i < kPerBlock; ++i) {
    const std::uint64_t seed = GetParam() * kPerBlock + i;
    SCOPED_TRACE("seed " + std::to_string(seed));
    Play(seed, seen).run();
    if (HasFailure()) return;
  }
  // The histories go where it hurts.
  EXPECT_GT(seen.preemptions, 0u);
  EXPECT_GT(seen.cached_tokens, 0u);
  EXPECT_GT(seen.evictions, 0u);
  EXPECT_GT(seen.poisoned, 0u);
  EXPECT_GT(seen.cancelled, 0u);
  EXPECT_GT(seen.stopped, 0u);
  EXPECT_GT(seen.waited, 0u);
  EXPECT_GT(seen.late, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, History, testing::Range<std::uint64_t>(0, kBlocks));

}  // namespace
}  // namespace herd::sched
