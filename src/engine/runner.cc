#include "engine/runner.h"

#include <algorithm>
#include <exception>

namespace herd {
namespace {

sched::Limits make_limits(const LlamaModel::Impl& model, std::int32_t prompt_rows) {
  const ModelLimits& m = model.model->limits();
  return {.context = m.context,
          .max_sequences = model.active,
          .max_rows = m.max_rows,
          .max_logits = m.max_logits,
          .prompt_rows = prompt_rows,
          .kv_pages = m.kv_pages,
          .page_size = m.page_size};
}

/// Room for the largest step, so that no step allocates.
void reserve(sched::Plan& plan, const sched::Limits& l) {
  const auto rows = static_cast<std::size_t>(l.max_rows),
             sequences = static_cast<std::size_t>(l.max_sequences);
  const auto pages = static_cast<std::size_t>((l.context + l.page_size - 1) / l.page_size);
  plan.batch.ids.reserve(rows);
  plan.batch.positions.reserve(rows);
  plan.batch.slots.reserve(rows);
  plan.batch.sequences.reserve(sequences);
  plan.batch.block_table.reserve(sequences * pages);
  plan.batch.logit_rows.reserve(static_cast<std::size_t>(l.max_logits));
  plan.batch.sampling.reserve(static_cast<std::size_t>(l.max_logits));
  plan.shares.reserve(sequences);
}

}  // namespace

Runner::Runner(LlamaModel::Impl& model, std::int32_t prompt_rows)
    : model_(model),
      device_chooses_(model.model->backend().samples_on_device()),
      state_(make_limits(model, prompt_rows)),
      sampler_(model.vocab()) {
  for (sched::Plan& plan : plans_) reserve(plan, state_.limits);
  outcomes_.reserve(static_cast<std::size_t>(state_.limits.max_sequences));
  events_.reserve(outcomes_.capacity());
}

Result<sched::RequestId> Runner::add(GenerateRequest request, Prepared prepared,
                                     CachePartition partition, ReplyText text) {
  const std::int32_t max_tokens = request.max_tokens;
  const std::int32_t logits_from = request.prompt_logprobs ? request.prompt_logprobs_from - 1 : -1;
  std::vector<TokenId> prompt = prepared.prompt;
  auto reply = std::make_unique<Reply>(model_, std::move(request), std::move(prepared), text);
  const auto id = sched::submit(state_, {std::move(prompt), max_tokens, partition, logits_from});
  if (id.ok()) entries_.push_back({*id, std::move(reply)});
  return id;
}

Event Runner::end(sched::RequestId id, FinishReason reason, Error why) {
  Event event = find(id)->reply->make_end(reason, std::move(why));
  sched::cancel(state_, id);
  forget(id);
  return event;
}

// ---- one step ----

void Runner::step(const OnEvent& on_event) {
  auto& [next, open] = plans_;
  sched::plan(state_, next);
  const bool any = !next.shares.empty();
  if (any) {
    step_rows_ = next.batch.n_rows();
    note_started(next);
    if (device_chooses_) add_choices(next);
    model_.enqueue(next.batch);
  }
  if (open_) settle(open, on_event);
  open_ = any;
  std::swap(next, open);
  if (open_ && (!device_chooses_ || needs_logits(open))) {
    settle(open, on_event);
    open_ = false;
  }
}

void Runner::note_started(const sched::Plan& plan) {
  for (const sched::Share& share : plan.shares) {
    Entry& entry = *find(share.id);
    if (!std::exchange(entry.started, true)) entry.reply->usage().cached_tokens = share.position;
  }
}

void Runner::add_choices(sched::Plan& plan) {
  plan.batch.sampling.resize(plan.batch.logit_rows.size());
  for (const sched::Share& share : plan.shares)
    if (share.chooses)
      plan.batch.sampling[static_cast<std::size_t>(share.first_logit + share.n_logits - 1)] =
          find(share.id)->reply->sampling_row(share.position + share.n_rows);
}

bool Runner::needs_logits(const sched::Plan& plan) {
  return std::ranges::any_of(plan.shares, [&](const sched::Share& share) {
    const Entry* entry = find(share.id);
    return entry != nullptr && entry->reply->needs_logits(share);
  });
}

/// Waits for a step, commits it and tells what happened.
void Runner::settle(const sched::Plan& plan, const OnEvent& on_event) {
  std::span<const TokenId> chosen;
  if (!plan.batch.sampling.empty()) {
    const auto ids = model_.model->backend().sampled();
    if (!ids.ok()) return fail_step(plan, ids.error(), on_event);
    chosen = *ids;
  }
  outcomes_.clear();
  for (const sched::Share& share : plan.shares) outcomes_.push_back(outcome_of(share, chosen));
  events_.clear();
  sched::commit(state_, plan, outcomes_, events_);
  for (const sched::Event& e : events_) {
    on_event(e.id, find(e.id)->reply->make_event(e.end));
    if (e.end != FinishReason::none) forget(e.id);
  }
}

/// Whatever goes wrong with one request's data ends that request alone.
sched::Outcome Runner::outcome_of(const sched::Share& share, std::span<const TokenId> chosen) {
  const Entry* entry = find(share.id);
  if (entry == nullptr || share.n_logits == 0) return {};
  const auto first = static_cast<std::size_t>(share.first_logit),
             count = static_cast<std::size_t>(share.n_logits);
  Reply& reply = *entry->reply;
  sched::Outcome outcome;
  try {
    if (!chosen.empty() && !reply.needs_logits(share)) {
      outcome = reply.take_id(chosen[first + count - 1]);
    } else {
      const auto logits = model_.read_logits(first, count);
      outcome = logits.ok() ? reply.take_logits(share, *logits, sampler_)
                            : reply.fail(logits.error().message);
    }
  } catch (const std::exception& e) {
    outcome = reply.fail(e.what());
  }
  if (outcome.end == FinishReason::error) ++not_finite_;
  return outcome;
}

void Runner::fail_step(const sched::Plan& plan, const Error& error, const OnEvent& on_event) {
  for (const sched::Share& share : plan.shares)
    if (find(share.id) != nullptr) on_event(share.id, end(share.id, FinishReason::error, error));
}

Runner::Entry* Runner::find(sched::RequestId id) {
  const auto at = std::ranges::lower_bound(entries_, id, {}, &Entry::id);
  return at != entries_.end() && at->id == id ? &*at : nullptr;
}

void Runner::forget(sched::RequestId id) {
  entries_.erase(std::ranges::lower_bound(entries_, id, {}, &Entry::id));
}

}  // namespace herd
