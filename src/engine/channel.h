// Where an Answer meets the engine: a queue of events that never makes the engine wait.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "herd/engine.h"

namespace herd {

/// Thread-safe. The engine's thread pushes, the owner of the Answer pops.
struct Answer::Channel {
  explicit Channel(std::function<void()> on_events) : on_events_(std::move(on_events)) {}

  void push(Event event);
  std::optional<Event> pop();  // waits; none after the last
  std::vector<Event> pop_all();
  bool done() const;
  std::size_t unread_bytes() const;

  std::atomic<bool> cancelled{false};  // by the owner

 private:
  const std::function<void()> on_events_;
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Event> events_;
  std::size_t bytes_ = 0;
  bool ended_ = false;  // the last event has been pushed
};

}  // namespace herd
