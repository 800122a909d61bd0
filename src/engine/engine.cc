// The engine's thread: takes requests in, ends those that must end, runs a step, says what
// happened.
#include "herd/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "engine/channel.h"
#include "engine/runner.h"

namespace herd {
namespace {

using Time = std::chrono::steady_clock::time_point;

/// A checked request on its way to the engine's thread.
struct Incoming {
  GenerateRequest request;
  Prepared prepared;
  CachePartition partition = 0;
  std::shared_ptr<Answer::Channel> channel;
  Time submitted;
};

/// What the engine knows of a request beside what the runner does.
struct Live {
  sched::RequestId id = 0;
  std::shared_ptr<Answer::Channel> channel;
  Time submitted;
  std::int64_t prompt_tokens = 0;
  bool started = false;              // has left the queue
  std::optional<Time> behind_since;  // its reader
};

struct Ending {
  FinishReason reason = FinishReason::none;
  Error why;
  std::uint64_t EngineStats::*counter = nullptr;
};

/// 16 rows of a long prompt beside 8 streams of a small model on two cores keep the streams' p99
/// under three times the quiet one, 24 and 32 do not (docs/server.md); a GPU hardly notices 512.
std::int32_t prompt_rows(const EngineOptions& options, const LlamaModel::Impl& model) {
  if (options.prompt_rows > 0) return options.prompt_rows;
  return model.model->backend().samples_on_device() ? 512 : 16;
}

double seconds(std::chrono::nanoseconds t) {
  return std::chrono::duration<double>(t).count();
}

}  // namespace

struct Engine::Impl {
  Impl(LlamaModel m, EngineOptions o)
      : model(std::move(m)),
        options(std::move(o)),
        runner(model.impl(), prompt_rows(options, model.impl())) {
    if (!options.clock) options.clock = [] { return std::chrono::steady_clock::now(); };
  }

  // ---- any thread ----
  Result<Answer> submit(GenerateRequest request, SubmitOptions how);
  Status enqueue(Incoming incoming);
  EngineStats stats() const;

  // ---- the engine's thread ----
  void run();
  bool take_incoming();
  void start(Incoming incoming);
  void deliver(sched::RequestId id, Event&& event);
  void end_those_who_must();
  Ending must_end(Live& l, Time now) const;
  void leave_queue(Live& l);
  void publish();

  LlamaModel model;
  EngineOptions options;
  Runner runner;
  std::vector<Live> live;  // as many as the runner has, in its order
  EngineStats counts;      // since the start
  std::atomic<bool> ending{false};

  mutable std::mutex mutex;  // of everything below
  std::condition_variable work, idle;
  std::vector<Incoming> inbox;
  std::int32_t waiting = 0;  // requests that have not started, in the inbox or live
  std::int64_t waiting_tokens = 0;
  bool busy = false, closing = false;
  Time got_on;  // when the engine's thread last got on
  EngineStats published;
  std::uint64_t submitted = 0, refused = 0;
};

// ---- any thread ----

Result<Answer> Engine::Impl::submit(GenerateRequest request, SubmitOptions how) {
  auto prepared = prepare(model.impl(), request);
  if (!prepared.ok()) return prepared.error();
  if (Status status =
          sched::check(runner.limits(), std::ssize(prepared->prompt), request.max_tokens);
      !status.ok())
    return status.error();
  auto channel = std::make_shared<Answer::Channel>(std::move(how.on_events));
  Status status = enqueue(
      {std::move(request), *std::move(prepared), how.cache_partition, channel, options.clock()});
  if (!status.ok()) return status.error();
  return Answer(std::move(channel));
}

Status Engine::Impl::enqueue(Incoming incoming) {
  const std::lock_guard lock(mutex);
  const std::int64_t tokens = std::ssize(incoming.prepared.prompt);
  if (closing) return {Code::cancelled, "the engine is closing"};
  const auto refuse = [&](std::string message) {
    ++refused;
    return Status(Code::resource_exhausted, std::move(message));
  };
  if (waiting >= options.max_queue)
    return refuse(fmt::format("{} requests wait, the queue holds {}", waiting, options.max_queue));
  if (waiting > 0 && waiting_tokens + tokens > options.max_queue_tokens)
    return refuse(fmt::format("{} prompt tokens wait, {} more would be above the queue's {}",
                              waiting_tokens, tokens, options.max_queue_tokens));
  ++submitted;
  ++waiting;
  waiting_tokens += tokens;
  if (!busy) got_on = options.clock();
  busy = true;
  inbox.push_back(std::move(incoming));
  work.notify_one();
  return {};
}

EngineStats Engine::Impl::stats() const {
  const std::lock_guard lock(mutex);
  EngineStats s = published;
  s.waiting = waiting;
  s.submitted = submitted;
  s.refused = refused;
  s.seconds_in_step = busy ? seconds(options.clock() - got_on) : 0;
  return s;
}

// ---- the engine's thread ----

void Engine::Impl::run() {
  const Runner::OnEvent on_event = [this](sched::RequestId id, Event&& event) {
    deliver(id, std::move(event));
  };
  while (take_incoming()) {
    end_those_who_must();
    runner.step(on_event);
    publish();
  }
}

/// Waits while there is nothing to do. False when the engine ends.
bool Engine::Impl::take_incoming() {
  std::vector<Incoming> taken;
  {
    std::unique_lock lock(mutex);
    busy = !runner.idle() || !inbox.empty();
    if (!busy) idle.notify_all();
    work.wait(lock, [&] { return ending || !runner.idle() || !inbox.empty(); });
    if (runner.idle() && inbox.empty()) return false;
    got_on = options.clock();
    taken.swap(inbox);
  }
  for (Incoming& incoming : taken) start(std::move(incoming));
  return true;
}

void Engine::Impl::start(Incoming incoming) {
  Live l;
  l.channel = std::move(incoming.channel);
  l.submitted = incoming.submitted;
  l.prompt_tokens = std::ssize(incoming.prepared.prompt);
  const auto id = runner.add(std::move(incoming.request), std::move(incoming.prepared),
                             incoming.partition, ReplyText::as_it_comes);
  l.id = *id;  // submit() has checked whatever add() could refuse
  live.push_back(std::move(l));
}

void Engine::Impl::deliver(sched::RequestId id, Event&& event) {
  const auto at = std::ranges::lower_bound(live, id, {}, &Live::id);
  const Usage usage = event.usage;
  const FinishReason reason = event.finish_reason;
  if (event.id >= 0) ++counts.answer_tokens;
  at->channel->push(std::move(event));
  if (reason == FinishReason::none) return;
  leave_queue(*at);
  ++counts.finished[static_cast<std::size_t>(reason)];
  counts.prompt_tokens += static_cast<std::uint64_t>(usage.prompt_tokens);
  counts.cached_tokens += static_cast<std::uint64_t>(usage.cached_tokens);
  live.erase(at);
}

/// Counts a request out of the queue, once.
void Engine::Impl::leave_queue(Live& l) {
  if (std::exchange(l.started, true)) return;
  const std::lock_guard lock(mutex);
  --waiting;
  waiting_tokens -= l.prompt_tokens;
}

void Engine::Impl::end_those_who_must() {
  const Time now = options.clock();
  for (std::size_t i = 0; i < live.size();) {
    Ending ending_now = must_end(live[i], now);
    if (ending_now.counter != nullptr) ++(counts.*ending_now.counter);
    if (ending_now.reason == FinishReason::none)
      ++i;
    else
      deliver(live[i].id, runner.end(live[i].id, ending_now.reason, std::move(ending_now.why)));
  }
}

Ending Engine::Impl::must_end(Live& l, Time now) const {
  const auto cancelled = [](std::string why, std::uint64_t EngineStats::*counter = nullptr) {
    return Ending{FinishReason::cancelled, {Code::cancelled, std::move(why)}, counter};
  };
  if (l.channel->cancelled) return cancelled("cancelled by its owner");
  if (ending) return cancelled("the engine ends");
  const auto age = now - l.submitted;
  if (!l.started && age > options.queue_wait)
    return {FinishReason::error,
            {Code::resource_exhausted, fmt::format("waited {:.1f} s to run, the limit is {:.1f}",
                                                   seconds(age), seconds(options.queue_wait))},
            &EngineStats::queue_timeouts};
  if (age > options.wall_time)
    return cancelled(
        fmt::format("took {:.1f} s, the limit is {:.1f}", seconds(age), seconds(options.wall_time)),
        &EngineStats::wall_timeouts);
  const std::size_t unread = l.channel->unread_bytes();
  if (unread <= options.unread_bytes)
    l.behind_since.reset();
  else if (!l.behind_since)
    l.behind_since = now;
  else if (now - *l.behind_since > options.slow_reader)
    return cancelled(fmt::format("{} bytes of events not taken for {:.1f} s", unread,
                                 seconds(now - *l.behind_since)),
                     &EngineStats::slow_readers);
  return {};
}

void Engine::Impl::publish() {
  const sched::State& s = runner.state();
  for (std::size_t i = 0; i < s.running; ++i) leave_queue(live[i]);
  const PagePool& pool = s.kv.pool();
  EngineStats now = counts;
  now.running = static_cast<std::int32_t>(s.running);
  now.pages = pool.total();
  now.pages_free = pool.free();
  now.pages_used = pool.used();
  now.pages_cached = pool.cached();
  now.step_rows = runner.step_rows();
  now.preemptions = s.counters.preemptions;
  now.not_finite = runner.not_finite();
  now.steps = model.impl().steps;
  now.rows = model.impl().rows;
  const std::lock_guard lock(mutex);
  published = now;
}

// ---- the public face ----

Result<std::unique_ptr<Engine>> Engine::create(LlamaModel model, EngineOptions options) {
  const auto at_least = [](std::string_view name, std::int64_t value, std::int64_t least) {
    if (value >= least) return Status();
    return Status(Code::out_of_range, fmt::format("{} {}: at least {}", name, value, least));
  };
  for (Status status : {at_least("max_queue", options.max_queue, 1),
                        at_least("max_queue_tokens", options.max_queue_tokens, 1),
                        at_least("prompt_rows", options.prompt_rows, 0),
                        at_least("queue_wait", options.queue_wait.count(), 0),
                        at_least("wall_time", options.wall_time.count(), 0),
                        at_least("slow_reader", options.slow_reader.count(), 0)})
    if (!status.ok()) return status.error();
  auto impl = std::make_unique<Impl>(std::move(model), std::move(options));
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)), thread_([this] { impl_->run(); }) {}

Engine::~Engine() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->closing = true;
    impl_->ending = true;
    impl_->work.notify_one();
  }
  thread_.join();
}

Result<Answer> Engine::submit(GenerateRequest request, SubmitOptions options) {
  return impl_->submit(std::move(request), std::move(options));
}

void Engine::close() {
  const std::lock_guard lock(impl_->mutex);
  impl_->closing = true;
}

bool Engine::wait_idle(std::chrono::milliseconds timeout) {
  std::unique_lock lock(impl_->mutex);
  return impl_->idle.wait_for(lock, timeout, [&] { return !impl_->busy; });
}

EngineStats Engine::stats() const {
  return impl_->stats();
}
ModelInfo Engine::info() const {
  return impl_->model.info();
}
std::int32_t Engine::context() const {
  return impl_->runner.limits().context;
}
Result<std::vector<TokenId>> Engine::encode(std::string_view text, bool add_bos) const {
  return impl_->model.encode(text, add_bos);
}
Result<std::string> Engine::decode(std::span<const TokenId> ids, bool special) const {
  return impl_->model.decode(ids, special);
}
Result<Vocabulary> Engine::vocabulary() const {
  const LlamaModel::Impl& model = impl_->model.impl();
  if (model.tokenizer == nullptr) return model.tokenizer_error;
  return Vocabulary(model.tokenizer);
}

}  // namespace herd
