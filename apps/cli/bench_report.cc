#include "bench_report.h"

#include <fmt/format.h>

#include "json.h"

namespace cli {

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return {values.front(), n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2,
          values.back()};
}

std::string bench_json(const BenchReport& report) {
  nlohmann::ordered_json out;
  out["model"] = report.model;
  out["backend"] = report.backend;
  out["prompt"] = report.prompt;
  out["max_tokens"] = report.max_tokens;
  out["repeats"] = report.repeats;
  const auto ceiling = [&](const std::string& name, const Spread& s) {
    out[name] = s.median;
    out[name + "_low"] = s.low;
    out[name + "_high"] = s.high;
  };
  ceiling("read_bytes_per_second", report.read);
  ceiling(report.flops_name + "_flops_per_second", report.flops);
  if (report.has_integers()) ceiling("integer_flops_per_second", report.integers);
  out["results"] = nlohmann::ordered_json::array();
  for (const BenchRow& r : report.rows) {
    out["results"].push_back({{"what", r.what},
                              {"batch", r.batch},
                              {"tokens_per_second", r.rate.median},
                              {"low", r.rate.low},
                              {"high", r.rate.high},
                              {"gb_per_second", r.gb},
                              {"gflop_per_second", r.gflop},
                              {"share_of_read", r.read_share},
                              {"share_of_" + report.flops_name, r.flop_share},
                              {"share_of_floor", r.floor_share()}});
    if (report.has_integers()) out["results"].back()["share_of_integer"] = r.integer_share;
  }
  out["memory"] = nlohmann::ordered_json::array();
  for (const BenchMemory& m : report.memory)
    out["memory"].push_back({{"batch", m.batch},
                             {"weights", m.weights},
                             {"kv", m.kv},
                             {"work", m.work},
                             {"runtime", m.runtime}});
  return dump(out) + "\n";
}

std::string bench_text(const BenchReport& report) {
  const auto in_billions = [](const Spread& s) {
    return fmt::format("{:.1f} ({:.1f}..{:.1f})", s.median / 1e9, s.low / 1e9, s.high / 1e9);
  };
  std::string out = fmt::format("{}, {}\nceilings, between the runs: read {} GB/s, {} {} GFLOP/s",
                                report.model, report.backend, in_billions(report.read),
                                report.flops_name, in_billions(report.flops));
  if (report.has_integers())
    out += fmt::format(", integer {} GFLOP/s", in_billions(report.integers));
  out += fmt::format("\n\n{:<8} {:>5} {:>10} {:>18} {:>8} {:>9} {:>7} {:>7} {:>8}{}\n", "", "batch",
                     "tok/s", "low..high", "GB/s", "GFLOP/s", "% read", "% " + report.flops_name,
                     "% floor", report.has_integers() ? "  % integer" : "");
  for (const BenchRow& r : report.rows) {
    out += fmt::format("{:<8} {:>5} {:>10.1f} {:>18} {:>8.1f} {:>9.1f} {:>7.0f} {:>7.0f} {:>8.0f}",
                       r.what, r.batch, r.rate.median,
                       fmt::format("{:.1f}..{:.1f}", r.rate.low, r.rate.high), r.gb, r.gflop,
                       100 * r.read_share, 100 * r.flop_share, 100 * r.floor_share());
    if (report.has_integers()) out += fmt::format(" {:>10.0f}", 100 * r.integer_share);
    out += "\n";
  }
  return out;
}

}  // namespace cli
