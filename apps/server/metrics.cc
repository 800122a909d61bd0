#include "metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace server {
namespace {

void describe(std::string& out, std::string_view name, std::string_view type,
              std::string_view help) {
  out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

template <class T>
void single(std::string& out, std::string_view name, std::string_view type, std::string_view help,
            T value) {
  describe(out, name, type, help);
  out += fmt::format("{} {}\n", name, value);
}

template <class Counts>
void by_label(std::string& out, std::string_view name, std::string_view label,
              std::string_view help, const Counts& counts) {
  describe(out, name, "counter", help);
  for (const auto& [key, value] : counts)
    out += fmt::format("{}{{{}=\"{}\"}} {}\n", name, label, key, value);
}

void engine_text(std::string& out, const herd::EngineStats& s) {
  single(out, "herd_requests_waiting", "gauge", "Sequences waiting to run.", s.waiting);
  single(out, "herd_requests_running", "gauge", "Sequences running.", s.running);
  single(out, "herd_step_rows", "gauge", "Rows of the engine's last step.", s.step_rows);
  single(out, "herd_seconds_in_step", "gauge", "Since the engine last got on, with work to do.",
         s.seconds_in_step);
  describe(out, "herd_kv_pages", "gauge", "Pages of the KV cache.");
  out += fmt::format(
      "herd_kv_pages{{state=\"free\"}} {}\nherd_kv_pages{{state=\"used\"}} {}\n"
      "herd_kv_pages{{state=\"cached\"}} {}\n",
      s.pages_free, s.pages_used, s.pages_cached);
  const auto counter = [&](std::string_view name, std::string_view help, std::uint64_t value) {
    single(out, name, "counter", help, value);
  };
  counter("herd_prompt_tokens_total", "Prompt tokens of sequences that ended.", s.prompt_tokens);
  counter("herd_prefix_hit_tokens_total", "Of them, found in the prefix cache.", s.cached_tokens);
  counter("herd_answer_tokens_total", "Tokens generated.", s.answer_tokens);
  counter("herd_sequences_total", "Sequences taken.", s.submitted);
  counter("herd_preemptions_total", "Sequences sent back for want of pages.", s.preemptions);
  counter("herd_not_finite_total", "Sequences ended because their logits were not finite.",
          s.not_finite);
  counter("herd_steps_total", "Steps of the engine.", s.steps);
  counter("herd_rows_total", "Rows of all steps.", s.rows);
  describe(out, "herd_finished_total", "counter", "Sequences that ended.");
  for (std::size_t i = 1; i < s.finished.size(); ++i)
    out += fmt::format("herd_finished_total{{reason=\"{}\"}} {}\n",
                       herd::to_string(static_cast<herd::FinishReason>(i)), s.finished[i]);
  describe(out, "herd_engine_cancels_total", "counter", "Sequences the engine ended by a limit.");
  out += fmt::format(
      "herd_engine_cancels_total{{reason=\"queue_wait\"}} {}\n"
      "herd_engine_cancels_total{{reason=\"wall_time\"}} {}\n"
      "herd_engine_cancels_total{{reason=\"slow_reader\"}} {}\n",
      s.queue_timeouts, s.wall_timeouts, s.slow_readers);
}

std::uint64_t value_of(const auto& counts, std::string_view key) {
  const auto at = counts.find(key);
  return at == counts.end() ? 0 : at->second;
}

}  // namespace

void Histogram::add(double seconds) {
  const auto at = std::ranges::lower_bound(kBounds, seconds) - kBounds.begin();
  ++buckets_[static_cast<std::size_t>(at)];
  ++count_;
  sum_ += seconds;
}

std::string Histogram::text(std::string_view name, std::string_view help) const {
  std::string out;
  describe(out, name, "histogram", help);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < kBounds.size(); ++i) {
    sum += buckets_[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], sum);
  }
  return out + fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, count_,
                           name, sum_, name, count_);
}

void RateMeter::add(Clock::time_point now, double total) {
  points_.push_back({now, total});
  const auto oldest = now - std::chrono::duration<double>(kSeconds);
  while (points_.size() > 2 && points_[1].at <= oldest) points_.pop_front();
}

double RateMeter::rate() const {
  if (points_.size() < 2) return 0;
  const Point &first = points_.front(), &last = points_.back();
  const double seconds = std::chrono::duration<double>(last.at - first.at).count();
  return seconds > 0 ? (last.total - first.total) / seconds : 0;
}

void Metrics::count(Counts& counts, std::string_view key) {
  const auto at = counts.find(key);
  if (at == counts.end())
    counts.emplace(key, 1);
  else
    ++at->second;
}

void Metrics::request(std::string_view route) {
  const std::lock_guard lock(mutex_);
  count(requests_, route);
}
void Metrics::reject(std::string_view reason) {
  const std::lock_guard lock(mutex_);
  count(rejects_, reason);
}
void Metrics::cancel(std::string_view reason) {
  const std::lock_guard lock(mutex_);
  count(cancels_, reason);
}
void Metrics::first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  first_token_.add(seconds);
}
void Metrics::inter_token(double seconds) {
  const std::lock_guard lock(mutex_);
  inter_token_.add(seconds);
}
void Metrics::end_to_end(double seconds) {
  const std::lock_guard lock(mutex_);
  end_to_end_.add(seconds);
}

std::uint64_t Metrics::rejects(std::string_view reason) const {
  const std::lock_guard lock(mutex_);
  return value_of(rejects_, reason);
}
std::uint64_t Metrics::cancels(std::string_view reason) const {
  const std::lock_guard lock(mutex_);
  return value_of(cancels_, reason);
}

std::string Metrics::prometheus(const herd::EngineStats& stats, const Gauges& gauges) const {
  std::string out;
  engine_text(out, stats);
  single(out, "herd_connections", "gauge", "Open connections.", gauges.connections);
  single(out, "herd_draining", "gauge", "1 while the server ends.", gauges.draining ? 1 : 0);
  const std::lock_guard lock(mutex_);
  by_label(out, "herd_http_requests_total", "route", "Requests that arrived.", requests_);
  by_label(out, "herd_rejects_total", "reason", "Requests refused.", rejects_);
  by_label(out, "herd_cancels_total", "reason", "Requests ended before their time.", cancels_);
  out += first_token_.text("herd_time_to_first_token_seconds",
                           "From a request's arrival to its first token.");
  out += inter_token_.text("herd_inter_token_seconds", "Between two tokens of an answer.");
  out += end_to_end_.text("herd_request_seconds", "From a request's arrival to its end.");
  return out;
}

}  // namespace server
