// Who runs in the next step, and what the last one meant: plan() and commit(), functions of a state
// and what is passed to them. No clock, thread, device or text in here. docs/lifecycle.md tells a
// request's way; tests/sched proves the promises below over random histories.
//
// - First come, first served: `sequences` is in the order of submission, the first `running` of it
//   run. So nobody overtakes, and the oldest gets on in every step.
// - A running stream gets its row in every step that has a page for it, beside at most
//   Limits::prompt_rows rows of prompts.
// - A full pool fails nobody: a sequence without a page takes those of the youngest that runs,
// which
//   goes back to the front of the queue and is computed again later, its answer so far as prompt.
//   By docs/numerics.md that changes no bit of its answer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/batch.h"
#include "herd/status.h"
#include "kv/prefix_cache.h"

namespace herd::sched {

using RequestId = std::uint64_t;

struct Limits {
  std::int32_t context = 0;        // longest sequence
  std::int32_t max_sequences = 0;  // that run at once
  std::int32_t max_rows = 0;       // of one step, at least max_sequences
  std::int32_t max_logits = 0;     // rows with logits in one step, at least max_sequences
  std::int32_t prompt_rows = 0;    // rows of prompts in a step with a running stream
  std::int32_t kv_pages = 0;
  std::int32_t page_size = 32;
};

struct Request {
  std::vector<TokenId> prompt;
  std::int32_t max_tokens = 0;
  CachePartition partition = 0;
  std::int32_t logits_from = -1;  // after the prompt's tokens from this one on; -1: its last
};

/// A request on its way. What it will ever need is reserved when it is submitted.
struct Sequence {
  RequestId id = 0;
  CachePartition partition = 0;
  std::vector<TokenId> ids;      // the prompt, then the answer so far
  std::int32_t prompt = 0;       // tokens of the prompt
  std::int32_t max_tokens = 0;   // of the answer
  std::int32_t first_logit = 0;  // rows from this position on still want logits
  std::int32_t open = 0;         // choices of steps not yet committed, at most 1 when planning
  std::int32_t choice_row = 0;   // if open: the last one's place in its step's logit_rows
  BlockTable table;              // length(): positions whose rows were planned
};

struct Counters {
  std::uint64_t preemptions = 0;
  std::uint64_t prompt_tokens = 0;  // of sequences that were let in, each time
  std::uint64_t cached_tokens = 0;  // of those: not computed, because their pages were shared
};

struct State {
  /// REQUIRES: check(limits).
  explicit State(const Limits& limits);
  Limits limits;
  PrefixCache kv;
  std::vector<Sequence> sequences;  // oldest first
  std::size_t running = 0;          // the first so many run, the others wait
  RequestId next_id = 1;
  Counters counters;
};

/// One sequence's part of a step.
struct Share {
  RequestId id = 0;
  std::int32_t position = 0;  // of its first row
  std::int32_t n_rows = 0;
  std::int32_t first_logit = 0;  // its rows in Batch::logit_rows
  std::int32_t n_logits = 0;
  bool chooses = false;  // the last of them chooses the next token of the answer
};

/// One step. Batch::sampling is left to the caller.
struct Plan {
  Batch batch;
  std::vector<Share> shares;  // [batch.sequences.size()], in the same order
};

/// What came of a share. Ignored if it had no logits.
struct Outcome {
  TokenId token = -1;                     // if it chooses
  FinishReason end = FinishReason::none;  // stop: with this token; error: the share has failed
};

/// What a step did to a request.
struct Event {
  RequestId id = 0;
  TokenId token = -1;  // the answer's next, or -1
  FinishReason end = FinishReason::none;
};

/// Error: out_of_range, naming what is too small.
Status check(const Limits& limits);
/// Whether a request with so many tokens can run at all, alone. Errors: invalid_argument (no
/// prompt), out_of_range (context, pages), naming value and limit. Safe from any thread.
Status check(const Limits& limits, std::int64_t prompt, std::int32_t max_tokens);

/// Puts a request at the end of the queue. Ids ascend. Errors: as check; nothing has changed.
Result<RequestId> submit(State& state, Request request);

/// Ends a request, waiting or running, and frees its pages: cancelled, out of time, its client
/// gone. False if it has ended before. Steps on their way may still name it; commit knows.
bool cancel(State& state, RequestId id);

/// The next step; empty if nobody has anything to compute. Fills `plan` anew and allocates nothing
/// once `plan` has seen the largest step. At most one planned step may be uncommitted: then tokens
/// that it will choose are the ids -1 - i, i being their place in its logit_rows.
void plan(State& state, Plan& plan);

/// What came of the oldest uncommitted step: outcomes[i] is that of plan.shares[i]. Appends what
/// happened to `events`. Steps must be executed and committed in the order they were planned.
void commit(State& state, const Plan& plan, std::span<const Outcome> outcomes,
            std::vector<Event>& events);

/// Pages and queue are whole. Error: internal, naming what is not.
Status check_integrity(const State& state);

}  // namespace herd::sched
