// A request that runs: its answers, and what of its response may be sent.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "herd/engine.h"
#include "http.h"
#include "limits.h"
#include "metrics.h"
#include "response.h"

namespace server {

/// Tells a job's owner, from any thread, that poll() has something to do: once until it is asked.
class Waker {
 public:
  explicit Waker(std::function<void()> wake) : wake_(std::move(wake)) {}
  void notify() {
    if (!pending_.exchange(true)) wake_();
  }
  void asked() { pending_ = false; }

 private:
  std::function<void()> wake_;
  std::atomic<bool> pending_{false};
};

/// One thread at a time. Destroying it cancels what still runs: so the owner does when the client
/// is gone.
class Job {
 public:
  /// What can be sent now: a whole reply, or bytes of an event stream whose head was sent before
  /// the first of them. After `done` there is nothing more.
  struct Output {
    std::optional<HttpReply> reply;
    std::string stream;
    bool done = false;
  };

  /// `lease` is held until the job ends.
  Job(std::vector<herd::Answer> answers, Response response, bool stream,
      std::shared_ptr<Waker> waker, Metrics& metrics, Clock::time_point arrived,
      std::shared_ptr<void> lease);
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job();

  Output poll(Clock::time_point now);
  /// Ends it with this error: a reply if nothing was sent yet, else the stream's last event. The
  /// next poll() hands it out.
  void abort(ApiError why);

 private:
  void take(std::size_t sequence, herd::Event&& event, Clock::time_point now, Output& out);
  void measure(std::size_t sequence, const herd::Event& event, Clock::time_point now);
  void fail(ApiError why);
  void finish(Output& out, Clock::time_point now);

  std::vector<herd::Answer> answers_;
  std::vector<std::optional<Clock::time_point>> last_token_;  // of each answer
  Response response_;
  const bool stream_;
  bool sent_ = false;  // something of the stream
  bool done_ = false;
  std::optional<ApiError> failure_;
  std::shared_ptr<Waker> waker_;
  Metrics& metrics_;
  const Clock::time_point arrived_;
  std::shared_ptr<void> lease_;
};

}  // namespace server
