// Counters and latency histograms, and all of them as Prometheus text.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "herd/engine.h"
#include "limits.h"

namespace server {

/// Counts of values by fixed bounds, in seconds.
class Histogram {
 public:
  static constexpr std::array<double, 16> kBounds = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
  void add(double seconds);
  /// Lines of one histogram: buckets (cumulative), sum and count.
  std::string text(std::string_view name, std::string_view help) const;
  std::uint64_t count() const { return count_; }

 private:
  std::array<std::uint64_t, kBounds.size() + 1> buckets_{};
  std::uint64_t count_ = 0;
  double sum_ = 0;
};

/// How fast a growing count grows, over the last seconds.
class RateMeter {
 public:
  void add(Clock::time_point now, double total);
  /// Per second; 0 until it is known.
  double rate() const;

 private:
  static constexpr double kSeconds = 3;
  struct Point {
    Clock::time_point at;
    double total;
  };
  std::deque<Point> points_;
};

/// Thread-safe.
class Metrics {
 public:
  void request(std::string_view route);  // arrived, whatever becomes of it
  void reject(std::string_view reason);
  void cancel(std::string_view reason);
  void first_token(double seconds);
  void inter_token(double seconds);
  void end_to_end(double seconds);

  std::uint64_t rejects(std::string_view reason) const;
  std::uint64_t cancels(std::string_view reason) const;

  struct Gauges {
    std::size_t connections = 0;
    bool draining = false;
  };
  std::string prometheus(const herd::EngineStats& stats, const Gauges& gauges) const;

 private:
  using Counts = std::map<std::string, std::uint64_t, std::less<>>;
  static void count(Counts& counts, std::string_view key);
  mutable std::mutex mutex_;
  Counts requests_, rejects_, cancels_;
  Histogram first_token_, inter_token_, end_to_end_;
};

}  // namespace server
