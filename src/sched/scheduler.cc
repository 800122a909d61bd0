#include "sched/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace herd::sched {
namespace {

std::int32_t ssize32(std::span<const TokenId> ids) {
  return static_cast<std::int32_t>(ids.size());
}

/// Positions a request takes at most: its last token is chosen, but never fed.
std::int64_t positions(std::int64_t prompt, std::int32_t max_tokens) {
  return prompt + std::max(max_tokens, 1) - 1;
}

/// Tokens of a sequence that can be fed now: those known, and one that an open step chooses.
std::int32_t feedable(const Sequence& q) {
  return static_cast<std::int32_t>(
      std::min<std::int64_t>(ssize32(q.ids) + q.open, positions(q.prompt, q.max_tokens)));
}
std::int32_t left(const Sequence& q) {
  return feedable(q) - q.table.length();
}

std::vector<Sequence>::iterator find(State& state, RequestId id) {
  const auto at = std::ranges::lower_bound(state.sequences, id, {}, &Sequence::id);
  return at != state.sequences.end() && at->id == id ? at : state.sequences.end();
}

void erase(State& state, std::vector<Sequence>::iterator q) {
  q->table.clear(state.kv.pool());
  if (static_cast<std::size_t>(q - state.sequences.begin()) < state.running) --state.running;
  state.sequences.erase(q);
}

}  // namespace

Status check(const Limits& l) {
  const auto at_least = [](std::string_view name, std::int64_t value, std::int64_t least) {
    if (value >= least) return Status();
    return Status(Code::out_of_range, fmt::format("{} {}: at least {}", name, value, least));
  };
  for (Status status :
       {at_least("context", l.context, 1), at_least("max_sequences", l.max_sequences, 1),
        at_least("max_rows", l.max_rows, l.max_sequences),
        at_least("max_logits", l.max_logits, l.max_sequences),
        at_least("prompt_rows", l.prompt_rows, 1), at_least("kv_pages", l.kv_pages, 1),
        at_least("page_size", l.page_size, 1)})
    if (!status.ok()) return status;
  return {};
}

Status check(const Limits& limits, std::int64_t prompt, std::int32_t max_tokens) {
  if (prompt == 0) return {Code::invalid_argument, "the prompt has no tokens"};
  if (max_tokens < 0)
    return {Code::out_of_range, fmt::format("max_tokens {}: at least 0", max_tokens)};
  const std::int64_t most = positions(prompt, max_tokens);
  if (most > limits.context)
    return {Code::out_of_range,
            fmt::format("a prompt of {} tokens and max_tokens {} need {} positions, the context "
                        "holds {}",
                        prompt, max_tokens, most, limits.context)};
  const std::int64_t pages = (most + limits.page_size - 1) / limits.page_size;
  if (pages > limits.kv_pages)
    return {Code::out_of_range,
            fmt::format("a prompt of {} tokens and max_tokens {} need {} KV pages of {} tokens, "
                        "the pool has {}",
                        prompt, max_tokens, pages, limits.page_size, limits.kv_pages)};
  return {};
}

State::State(const Limits& l) : limits(l), kv(l.kv_pages, l.page_size) {}

Result<RequestId> submit(State& state, Request request) {
  if (Status status = check(state.limits, std::ssize(request.prompt), request.max_tokens);
      !status.ok())
    return status.error();
  Sequence q;
  q.id = state.next_id++;
  q.partition = request.partition;
  q.ids = std::move(request.prompt);
  q.prompt = ssize32(q.ids);
  q.max_tokens = request.max_tokens;
  q.first_logit =
      request.logits_from < 0 ? q.prompt - 1 : std::min(request.logits_from, q.prompt - 1);
  q.ids.reserve(static_cast<std::size_t>(q.prompt + q.max_tokens));
  q.table = BlockTable(state.kv.pool().pages_for(positions(q.prompt, q.max_tokens)));
  state.sequences.push_back(std::move(q));
  return state.sequences.back().id;
}

bool cancel(State& state, RequestId id) {
  const auto q = find(state, id);
  if (q == state.sequences.end()) return false;
  erase(state, q);
  return true;
}

// ---- planning ----

namespace {

/// What is left of a step for prompts. Streams have theirs set aside.
struct Budget {
  std::size_t were_running = 0;  // of these, those with one row left are streams
  std::int32_t rows = 0, logits = 0;
  std::int32_t promised = 0;  // pages that those who run still need for the tokens they have
};

/// Takes over shared pages of the tokens whose logits nobody wants.
std::uint64_t adopt(State& state, Sequence& q) {
  if (q.table.length() % state.limits.page_size != 0) return 0;
  const auto silent = std::span(q.ids).first(static_cast<std::size_t>(q.first_logit));
  return static_cast<std::uint64_t>(state.kv.adopt(q.table, q.partition, silent));
}

Budget begin_budget(State& state) {
  std::int32_t streams = 0;
  for (std::size_t i = 0; i < state.running; ++i) {
    state.counters.cached_tokens += adopt(state, state.sequences[i]);
    if (left(state.sequences[i]) == 1) ++streams;
  }
  const Limits& l = state.limits;
  const std::int32_t rows = l.max_rows - streams;
  return {state.running, streams > 0 ? std::min(rows, l.prompt_rows) : rows, l.max_logits - streams,
          0};
}

std::int32_t pages_missing(const State& state, const Sequence& q) {
  const auto held = static_cast<std::int32_t>(q.table.pages().size());
  return std::max(0, state.kv.pool().pages_for(feedable(q)) - held);
}

/// Lets the oldest that waits run, if there are pages for all of its tokens beside those promised
/// to the others and one more for each of them, so that it is not sent back at once. Whoever this
/// step sent back stays out: what it left, less the page it left for, is less than it needs.
bool admit(State& state, const Budget& budget) {
  if (state.running == static_cast<std::size_t>(state.limits.max_sequences)) return false;
  if (budget.rows == 0) return false;
  Sequence& q = state.sequences[state.running];
  const std::uint64_t cached = adopt(state, q);
  const auto spare = budget.promised + static_cast<std::int32_t>(state.running);
  if (state.running > 0 && pages_missing(state, q) + spare > state.kv.available()) {
    q.table.clear(state.kv.pool());
    return false;
  }
  state.counters.prompt_tokens += static_cast<std::uint64_t>(feedable(q));
  state.counters.cached_tokens += cached;
  ++state.running;
  return true;
}

/// Whether an older sequence is computing the page that sequence `i` needs next. It will be shared,
/// so the younger waits for it: requests that arrive together and begin alike compute that once.
bool being_computed(const State& state, std::size_t i) {
  const Sequence& q = state.sequences[i];
  const std::int32_t size = state.limits.page_size, start = q.table.length(), end = start + size;
  if (start % size != 0 || end > q.first_logit) return false;
  const auto page = static_cast<std::size_t>(start / size);
  const auto same = [&](const Sequence& o) {
    const auto pages = o.table.pages();
    if (o.partition != q.partition || ssize32(o.ids) < end || pages.size() < page) return false;
    if (pages.size() > page && state.kv.shared(pages[page])) return false;  // q did not want it
    if (page > 0 && pages[page - 1] != q.table.pages()[page - 1]) return false;
    return std::equal(q.ids.begin() + start, q.ids.begin() + end, o.ids.begin() + start);
  };
  return std::any_of(state.sequences.begin(),
                     state.sequences.begin() + static_cast<std::ptrdiff_t>(i), same);
}

/// The rows that sequence `i` would take of this step if pages were no matter.
std::int32_t wanted_rows(const State& state, std::size_t i, Budget& budget) {
  const Sequence& q = state.sequences[i];
  const std::int32_t all = left(q);
  if (i < budget.were_running && all == 1) return 1;
  if (all == 0 || being_computed(state, i)) return 0;
  const std::int32_t silent = std::max(0, q.first_logit - q.table.length());
  const std::int32_t rows = std::min({all, budget.rows, silent + budget.logits});
  budget.rows -= rows;
  budget.logits -= std::max(0, rows - silent);
  return rows;
}

void preempt_youngest(State& state) {
  --state.running;
  state.sequences[state.running].table.clear(state.kv.pool());
  ++state.counters.preemptions;
}

/// How many of `rows` sequence `i` has pages for. If not for one, younger ones give theirs; all of
/// those are behind it and not yet planned.
std::int32_t rows_with_room(State& state, std::size_t i, std::int32_t rows) {
  const BlockTable& table = state.sequences[i].table;
  for (;;) {
    const auto pages = static_cast<std::int32_t>(table.pages().size()) + state.kv.available();
    const std::int32_t room = pages * state.limits.page_size - table.length();
    if (room > 0 || state.running == i + 1) return std::min(rows, room);
    preempt_youngest(state);
  }
}

/// Appends the next `rows` tokens of a sequence. Their pages are there for the taking.
void append(State& state, Sequence& q, std::int32_t rows, Plan& out) {
  Batch& batch = out.batch;
  PagePool& pool = state.kv.pool();
  Share share = {
      q.id, q.table.length(), rows, static_cast<std::int32_t>(batch.logit_rows.size()), 0, false};
  const std::int32_t end = share.position + rows, first_row = batch.n_rows();
  state.kv.make_free(pool.pages_for(end) - static_cast<std::int32_t>(q.table.pages().size()));
  [[maybe_unused]] const Status extended = q.table.extend(pool, rows);
  assert(extended.ok());

  batch.sequences.push_back(
      {first_row, rows, end, static_cast<std::int32_t>(batch.block_table.size())});
  const auto pages = q.table.pages();
  batch.block_table.insert(batch.block_table.end(), pages.begin(), pages.end());
  for (std::int32_t p = share.position; p < end; ++p) {
    const bool known = p < ssize32(q.ids);
    batch.ids.push_back(known ? q.ids[static_cast<std::size_t>(p)] : -1 - q.choice_row);
    batch.positions.push_back(p);
    batch.slots.push_back(q.table.slot(pool, p));
    if (p >= q.first_logit) batch.logit_rows.push_back(first_row + p - share.position);
  }
  share.n_logits = static_cast<std::int32_t>(batch.logit_rows.size()) - share.first_logit;
  q.first_logit = std::max(q.first_logit, end);
  share.chooses = share.n_logits > 0 && left(q) == 0 && q.max_tokens > 0;
  if (share.chooses) {
    ++q.open;
    q.choice_row = share.first_logit + share.n_logits - 1;
  }
  out.shares.push_back(share);
}

}  // namespace

void plan(State& state, Plan& out) {
  out.batch.clear();
  out.shares.clear();
  Budget budget = begin_budget(state);
  for (std::size_t i = 0; i < state.sequences.size(); ++i) {
    if (i == state.running && !admit(state, budget)) break;
    std::int32_t rows = wanted_rows(state, i, budget);
    if (rows > 0) rows = rows_with_room(state, i, rows);
    if (rows > 0) append(state, state.sequences[i], rows, out);
    budget.promised += pages_missing(state, state.sequences[i]);
  }
}

// ---- committing ----

namespace {

/// What a share's outcome means for its sequence.
Event settle(State& state, Sequence& q, const Share& share, const Outcome& outcome) {
  Event event = {q.id, -1, outcome.end};
  if (share.chooses) --q.open;
  if (outcome.end == FinishReason::error) return event;
  if (share.chooses) {
    event.token = outcome.token;
    q.ids.push_back(outcome.token);
    if (event.end == FinishReason::none && ssize32(q.ids) == q.prompt + q.max_tokens)
      event.end = FinishReason::length;
  } else if (q.max_tokens == 0 && share.position + share.n_rows == q.prompt) {
    event.end = FinishReason::length;
  }
  // Finite logits prove every key and value that went into them: what would poison others is never
  // shared. A sequence that was preempted meanwhile has no pages to share.
  const std::int32_t proven = std::min(share.position + share.n_rows, q.table.length());
  state.kv.share(q.table, q.partition, std::span(q.ids).first(static_cast<std::size_t>(proven)));
  return event;
}

}  // namespace

void commit(State& state, const Plan& plan, std::span<const Outcome> outcomes,
            std::vector<Event>& events) {
  assert(outcomes.size() == plan.shares.size());
  for (std::size_t i = 0; i < plan.shares.size(); ++i) {
    const Share& share = plan.shares[i];
    const auto q = share.n_logits > 0 ? find(state, share.id) : state.sequences.end();
    if (q == state.sequences.end()) continue;  // nothing to say yet, or cancelled meanwhile
    const Event event = settle(state, *q, share, outcomes[i]);
    if (event.end != FinishReason::none) erase(state, q);
    if (event.token >= 0 || event.end != FinishReason::none) events.push_back(event);
  }
}

Status check_integrity(const State& state) {
  std::vector<PageId> owned;
  for (std::size_t i = 0; i < state.sequences.size(); ++i) {
    const Sequence& q = state.sequences[i];
    const auto pages = q.table.pages();
    owned.insert(owned.end(), pages.begin(), pages.end());
    if (i > 0 && state.sequences[i - 1].id >= q.id)
      return {Code::internal, fmt::format("request {} is out of order", q.id)};
    if (i >= state.running && !pages.empty())
      return {Code::internal, fmt::format("request {} waits with {} pages", q.id, pages.size())};
  }
  return state.kv.check_integrity(owned);
}

}  // namespace herd::sched
