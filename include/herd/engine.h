// Continuous batching: any thread submits requests, one thread runs the model for all of them.
//
//   auto model = herd::LlamaModel::from_gguf("model.gguf", {.batch_size = 16});
//   auto engine = herd::Engine::create(std::move(*model));
//   auto answer = (*engine)->submit({.prompt = "Once upon a time"});
//   while (auto event = answer->next()) std::cout << event->text;
//
// An answer is bitwise that of the same request alone: it does not depend on who else runs, on
// chunks, on what was cached, nor on having been sent back for want of KV pages.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "herd/llama.h"
#include "herd/status.h"
#include "herd/types.h"
#include "herd/vocabulary.h"

namespace herd {

struct EngineOptions {
  std::int32_t max_queue = 256;             // requests waiting to run; more are refused
  std::int64_t max_queue_tokens = 1 << 20;  // of their prompts, in all
  std::int32_t prompt_rows = 0;             // rows of prompts in a step with running streams, which
                                            // wait that long for their next token; 0: automatic
  std::chrono::milliseconds queue_wait{60'000};   // longest wait to run
  std::chrono::milliseconds wall_time{600'000};   // longest life of a request
  std::size_t unread_bytes = 256u << 10;          // of events that nobody takes; beyond them
  std::chrono::milliseconds slow_reader{30'000};  // for this long, the request is cancelled
  std::function<std::chrono::steady_clock::time_point()> clock = {};  // null: the steady clock
};

struct SubmitOptions {
  std::uint64_t cache_partition = 0;  // whose cached prefixes it may use: the number of an API key
  /// Called by the engine's thread when events are there after none were: once before the Answer
  /// is asked, then once after each take() that left none. Must return at once and may not throw;
  /// what it captures must live until the last event has been taken.
  std::function<void()> on_events = {};
};

struct Usage {
  std::int32_t prompt_tokens = 0;
  std::int32_t cached_tokens = 0;  // of the prompt, found in the cache
  std::int32_t answer_tokens = 0;
};

/// One step of an answer. Concatenated texts are the answer's text.
struct Event {
  TokenId id = -1;   // the next token, or -1: none in this event
  std::string text;  // what became certain: whole UTF-8, nothing of a stop string
  std::optional<TokenLogprob> logprob;        // of id, if asked
  std::vector<TokenLogprob> prompt_logprobs;  // if asked, in order, in the events of the prompt: of
                                              // each token from prompt_logprobs_from on
  FinishReason finish_reason = FinishReason::none;  // set in the last event, and only there
  Error error;  // if finish_reason is error or cancelled: why. resource_exhausted: waited too long
                // to run; cancelled: by its owner, the engine's end, wall time or slow reading;
                // internal: its logits are not finite, or the device failed
  Usage usage;  // so far
};

/// A submitted request's end of the line. Movable; destroying it cancels what still runs. May
/// outlive the engine. One thread at a time, but cancel() from any.
class Answer {
 public:
  Answer(Answer&&) noexcept;
  Answer& operator=(Answer&&) noexcept;
  ~Answer();

  /// Waits for the next event. None after the last one.
  std::optional<Event> next();
  /// The events there are, without waiting; empty if none.
  std::vector<Event> take();
  /// Whether the last event has been handed out.
  bool done() const;
  /// The request ends before the engine's next step, with FinishReason::cancelled if it has not
  /// ended by itself. Its last event still comes.
  void cancel();

  struct Channel;

 private:
  friend class Engine;
  explicit Answer(std::shared_ptr<Channel> channel);
  std::shared_ptr<Channel> channel_;
};

/// Figures of a running engine. "Since the start" ones only grow.
struct EngineStats {
  // now
  std::int32_t waiting = 0, running = 0;
  std::int32_t pages = 0, pages_free = 0, pages_used = 0, pages_cached = 0;
  std::int32_t step_rows = 0;  // of the last step
  double seconds_in_step = 0;  // since the engine last got on, while it has work; else 0
  // since the start
  std::uint64_t submitted = 0;              // and taken
  std::uint64_t refused = 0;                // for a full queue
  std::array<std::uint64_t, 5> finished{};  // by FinishReason
  std::uint64_t queue_timeouts = 0, wall_timeouts = 0, slow_readers = 0, not_finite = 0;
  std::uint64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
  std::uint64_t preemptions = 0, steps = 0, rows = 0;
};

/// Thread-safe. A bad request fails alone, at submit or with its last event; the engine's thread
/// never waits for a reader.
class Engine {
 public:
  /// Starts the engine's thread. Errors: out_of_range, naming the option.
  static Result<std::unique_ptr<Engine>> create(LlamaModel model, EngineOptions options = {});
  /// Cancels what still runs, and waits for the engine's thread.
  ~Engine();

  /// Checks and queues a request; encodes its prompt in the calling thread. max_tokens is cut to
  /// what the context leaves. Errors: invalid_argument, out_of_range: this request can never run,
  /// naming value and limit; resource_exhausted: the queue is full, try again later; cancelled: the
  /// engine is closing.
  Result<Answer> submit(GenerateRequest request, SubmitOptions options = {});

  /// From now on submit() refuses.
  void close();
  /// Waits until nothing runs or waits; false if that takes longer than `timeout`.
  bool wait_idle(std::chrono::milliseconds timeout);

  EngineStats stats() const;
  ModelInfo info() const;
  std::int32_t context() const;  // longest prompt and answer together
  Result<std::vector<TokenId>> encode(std::string_view text, bool add_bos) const;
  Result<std::string> decode(std::span<const TokenId> ids, bool special = false) const;
  /// The model's own, not a copy. Error: why its tokeniser cannot be used.
  Result<Vocabulary> vocabulary() const;

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  std::thread thread_;  // last: it uses impl_
};

}  // namespace herd
