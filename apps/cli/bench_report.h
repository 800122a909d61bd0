// What `herd bench` found, and how it is shown: as text, as JSON, as a page with plots.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace cli {

struct Spread {
  double low = 0, median = 0, high = 0;
};
Spread spread(std::vector<double> values);

struct BenchRow {
  std::string what;  // "prefill" or "decode"
  int batch = 0;
  Spread rate;               // tok/s in all
  double gb = 0, gflop = 0;  // per second, at the median
  double read_share = 0, flop_share = 0, integer_share = 0;
  double floor_share() const { return std::max(read_share, flop_share); }
};

/// What a batch size needs, in bytes, as planned.
struct BenchMemory {
  int batch = 0;
  std::int64_t weights = 0, kv = 0, work = 0, runtime = 0;  // work: activations and scratch
};

struct BenchReport {
  std::string model, backend;
  std::string flops_name;  // what the arithmetic ceiling counts: "f32", "f16"
  int prompt = 0, max_tokens = 0, repeats = 0;
  Spread read, flops;  // ceilings: bytes and operations a second
  Spread integers;     // and of products of integers; 0: the device has none
  std::vector<BenchRow> rows;
  std::vector<BenchMemory> memory;
  bool has_integers() const { return integers.median > 0; }
};

std::string bench_text(const BenchReport& report);
std::string bench_json(const BenchReport& report);
/// One HTML page that needs nothing else: plots as inline SVG, and the figures as a table.
std::string bench_page(const BenchReport& report);

}  // namespace cli
