// The scheduler, the model and the answers together: requests go in, steps are run, events come
// out. No thread, queue or clock; generate() and the Engine are built on it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/reply.h"

namespace herd {

/// Where the device chooses tokens, one step is enqueued before the last one's choices are read,
/// unless somebody in it needs the logits themselves.
class Runner {
 public:
  /// `prompt_rows`: as in sched::Limits. The model must outlive the runner, and its batch calls
  /// must not be used in between: both give out the same KV pages.
  Runner(LlamaModel::Impl& model, std::int32_t prompt_rows);

  const sched::Limits& limits() const { return state_.limits; }
  const sched::State& state() const { return state_; }
  bool idle() const { return state_.sequences.empty() && !open_; }
  std::int32_t step_rows() const { return step_rows_; }     // of the last step
  std::uint64_t not_finite() const { return not_finite_; }  // answers that failed so

  /// REQUIRES: `prepared` and `request` as prepare() leaves them. Error: what can never run
  /// (sched::check).
  Result<sched::RequestId> add(GenerateRequest request, Prepared prepared, CachePartition partition,
                               ReplyText text);

  /// Called with every event; a request's last has a finish_reason, and its id then means nothing.
  using OnEvent = std::function<void(sched::RequestId, Event&&)>;
  /// One step, or what is left of the last one. If the device fails, those who were in the step end
  /// with its error.
  void step(const OnEvent& on_event);
  /// Ends a request and frees its pages now. The event that says so. REQUIRES: it has not ended.
  Event end(sched::RequestId id, FinishReason reason, Error why);

 private:
  struct Entry {
    sched::RequestId id;
    std::unique_ptr<Reply> reply;
    bool started = false;
  };
  Entry* find(sched::RequestId id);  // null: it has ended
  void forget(sched::RequestId id);
  void note_started(const sched::Plan& plan);
  void add_choices(sched::Plan& plan);
  bool needs_logits(const sched::Plan& plan);
  void settle(const sched::Plan& plan, const OnEvent& on_event);
  sched::Outcome outcome_of(const sched::Share& share, std::span<const TokenId> chosen);
  void fail_step(const sched::Plan& plan, const Error& error, const OnEvent& on_event);

  LlamaModel::Impl& model_;
  const bool device_chooses_;
  sched::State state_;
  Sampler sampler_;
  sched::Plan plans_[2];  // [0] the one being made, [1] the open one
  bool open_ = false;     // plans_[1] is on its way, not committed
  std::int32_t step_rows_ = 0;
  std::vector<sched::Outcome> outcomes_;
  std::vector<sched::Event> events_;
  std::vector<Entry> entries_;  // ids ascend
  std::uint64_t not_finite_ = 0;
};

}  // namespace herd
