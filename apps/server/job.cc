#include "job.h"

namespace server {
namespace {

double seconds(Clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

Job::Job(std::vector<herd::Answer> answers, Response response, bool stream,
         std::shared_ptr<Waker> waker, Metrics& metrics, Clock::time_point arrived,
         std::shared_ptr<void> lease)
    : answers_(std::move(answers)),
      last_token_(answers_.size()),
      response_(std::move(response)),
      stream_(stream),
      waker_(std::move(waker)),
      metrics_(metrics),
      arrived_(arrived),
      lease_(std::move(lease)) {}

Job::~Job() {
  if (!done_) metrics_.cancel("disconnect");
}

Job::Output Job::poll(Clock::time_point now) {
  waker_->asked();
  Output out;
  for (std::size_t i = 0; i < answers_.size() && !failure_; ++i)
    for (herd::Event& event : answers_[i].take())
      if (!failure_) take(i, std::move(event), now, out);
  if (!done_ && (failure_ || response_.done())) finish(out, now);
  sent_ = sent_ || !out.stream.empty();
  return out;
}

void Job::take(std::size_t sequence, herd::Event&& event, Clock::time_point now, Output& out) {
  measure(sequence, event, now);
  const bool failed = event.finish_reason == herd::FinishReason::error ||
                      event.finish_reason == herd::FinishReason::cancelled;
  if (!failed) {
    out.stream += response_.take(sequence, std::move(event));
    return;
  }
  ApiError why = from_error(event.error);
  if (event.error.code == herd::Code::resource_exhausted) why.reason = "queue_wait";
  fail(std::move(why));
}

void Job::measure(std::size_t sequence, const herd::Event& event, Clock::time_point now) {
  if (event.id < 0) return;
  auto& last = last_token_[sequence];
  if (last)
    metrics_.inter_token(seconds(now - *last));
  else
    metrics_.first_token(seconds(now - arrived_));
  last = now;
}

void Job::abort(ApiError why) {
  metrics_.cancel(why.reason);
  fail(std::move(why));
}

void Job::fail(ApiError why) {
  if (done_) return;
  failure_ = std::move(why);
  for (herd::Answer& answer : answers_) answer.cancel();
}

void Job::finish(Output& out, Clock::time_point now) {
  done_ = out.done = true;
  const bool begun = sent_ || !out.stream.empty();
  if (failure_ && begun) {
    out.stream += "data: " + error_json(*failure_) + "\n\n";
  } else if (failure_) {
    metrics_.reject(failure_->reason);
    out.reply = error_reply(*failure_);
  } else if (stream_) {
    out.stream += response_.last_bytes();
  } else {
    out.reply.emplace();
    out.reply->body = response_.whole();
  }
  if (!failure_) metrics_.end_to_end(seconds(now - arrived_));
  answers_.clear();
  lease_.reset();
}

}  // namespace server
