#include "engine/channel.h"

#include <iterator>

namespace herd {
namespace {

std::size_t bytes(const TokenLogprob& logprob) {
  return sizeof logprob + logprob.top.size() * sizeof logprob.top[0];
}
std::size_t bytes(const Event& event) {
  std::size_t sum = sizeof event + event.text.size();
  if (event.logprob) sum += bytes(*event.logprob);
  for (const TokenLogprob& logprob : event.prompt_logprobs) sum += bytes(logprob);
  return sum;
}

}  // namespace

void Answer::Channel::push(Event event) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = events_.empty();
    bytes_ += bytes(event);
    ended_ = event.finish_reason != FinishReason::none;
    events_.push_back(std::move(event));
  }
  arrived_.notify_one();
  if (first && on_events_) on_events_();
}

std::optional<Event> Answer::Channel::pop() {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [&] { return !events_.empty() || ended_; });
  if (events_.empty()) return std::nullopt;
  Event event = std::move(events_.front());
  events_.pop_front();
  bytes_ -= bytes(event);
  return event;
}

std::vector<Event> Answer::Channel::pop_all() {
  const std::lock_guard lock(mutex_);
  std::vector<Event> all(std::make_move_iterator(events_.begin()),
                         std::make_move_iterator(events_.end()));
  events_.clear();
  bytes_ = 0;
  return all;
}

bool Answer::Channel::done() const {
  const std::lock_guard lock(mutex_);
  return ended_ && events_.empty();
}

std::size_t Answer::Channel::unread_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

// ---- the owner's end ----

Answer::Answer(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
Answer::Answer(Answer&&) noexcept = default;
Answer& Answer::operator=(Answer&& other) noexcept {
  if (this != &other) {
    if (channel_) cancel();
    channel_ = std::move(other.channel_);
  }
  return *this;
}
Answer::~Answer() {
  if (channel_) cancel();
}
std::optional<Event> Answer::next() {
  return channel_->pop();
}
std::vector<Event> Answer::take() {
  return channel_->pop_all();
}
bool Answer::done() const {
  return channel_->done();
}
void Answer::cancel() {
  channel_->cancelled.store(true, std::memory_order_relaxed);
}

}  // namespace herd
