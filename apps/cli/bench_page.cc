// The page of `herd bench --html`. Batch sizes stand side by side, evenly spaced; every scale
// begins at zero.
#include <fmt/format.h>

#include <cmath>

#include "bench_report.h"
#include "common.h"

namespace cli {
namespace {

// Told apart with any colour vision (Okabe and Ito).
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7"};
constexpr double kWidth = 520, kHeight = 300, kLeft = 62, kRight = 16, kTop = 40, kBottom = 46;

struct Series {
  std::string name;
  std::vector<Spread> values;  // one per batch size
  bool dashed = false;
};
struct Plot {
  std::string title, unit;
  std::vector<int> batches;
  std::vector<Series> series;
  bool stacked = false;  // bars on each other instead of lines
};

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  return printable(out);
}

/// A round number a fifth of `most` or a little more.
double tick_step(double most) {
  const double raw = std::max(most, 1e-9) / 5, power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 2.5, 5.0})
    if (factor * power >= raw) return factor * power;
  return 10 * power;
}

class Drawing {
 public:
  explicit Drawing(const Plot& plot) : plot_(plot) {
    double most = 0;
    for (std::size_t i = 0; i < plot.batches.size(); ++i) {
      double sum = 0;
      for (const Series& s : plot.series) {
        sum += s.values[i].median;
        most = std::max(most, s.values[i].high);
      }
      if (plot.stacked) most = std::max(most, sum);
    }
    step_ = tick_step(most);
    most_ = step_ * std::max(1.0, std::ceil(most / step_ - 1e-9));
  }

  std::string svg() {
    out_ = fmt::format(
        "<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n"
        "<text class=\"title\" x=\"{:.0f}\" y=\"16\">{}</text>\n",
        kWidth, kHeight, escape(plot_.title), kLeft, escape(plot_.title));
    axes();
    if (plot_.stacked)
      bars();
    else
      for (std::size_t i = 0; i < plot_.series.size(); ++i) line(plot_.series[i], kColours[i]);
    legend();
    return out_ + "</svg>\n";
  }

 private:
  double x(std::size_t i) const {
    const double width = kWidth - kLeft - kRight, n = static_cast<double>(plot_.batches.size());
    return kLeft + width * (static_cast<double>(i) + 0.5) / n;
  }
  double y(double value) const {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * value / most_;
  }

  void axes() {
    for (double value = 0; value <= most_ * (1 + 1e-9); value += step_)
      out_ += fmt::format(
          "<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
          kLeft, kWidth - kRight, y(value), y(value), kLeft - 6, y(value) + 4, value);
    for (std::size_t i = 0; i < plot_.batches.size(); ++i)
      out_ += fmt::format(
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x(i),
          kHeight - kBottom + 16, plot_.batches[i]);
    out_ += fmt::format(
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">sequences at "
        "once</text>\n<text class=\"tick\" x=\"14\" y=\"{:.1f}\" text-anchor=\"middle\" "
        "transform=\"rotate(-90 14 {:.1f})\">{}</text>\n",
        (kLeft + kWidth - kRight) / 2, kHeight - 10, (kTop + kHeight - kBottom) / 2,
        (kTop + kHeight - kBottom) / 2, escape(plot_.unit));
  }

  void line(const Series& series, const char* colour) {
    std::string points;
    for (std::size_t i = 0; i < series.values.size(); ++i)
      points += fmt::format("{:.1f},{:.1f} ", x(i), y(series.values[i].median));
    out_ +=
        fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n",
                    points, colour, series.dashed ? " stroke-dasharray=\"5 4\"" : "");
    for (std::size_t i = 0; !series.dashed && i < series.values.size(); ++i) {
      const Spread& v = series.values[i];
      out_ += fmt::format(
          "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\"/>"
          "<circle cx=\"{0:.1f}\" cy=\"{4:.1f}\" r=\"3.5\" fill=\"{3}\"><title>{5}: {6:.4g} "
          "({7:.4g}..{8:.4g})</title></circle>\n",
          x(i), y(v.low), y(v.high), colour, y(v.median), escape(series.name), v.median, v.low,
          v.high);
    }
  }

  void bars() {
    const double width =
        0.5 * (kWidth - kLeft - kRight) / static_cast<double>(plot_.batches.size());
    for (std::size_t i = 0; i < plot_.batches.size(); ++i) {
      double sum = 0;
      for (std::size_t s = 0; s < plot_.series.size(); ++s) {
        const double value = plot_.series[s].values[i].median;
        out_ += fmt::format(
            "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.2f}\" fill=\"{}\">"
            "<title>{}: {:.4g} {}</title></rect>\n",
            x(i) - width / 2, y(sum + value), width, y(sum) - y(sum + value), kColours[s],
            escape(plot_.series[s].name), value, escape(plot_.unit));
        sum += value;
      }
      out_ += fmt::format(
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.3g}</text>\n",
          x(i), y(sum) - 4, sum);
    }
  }

  void legend() {
    double at = kLeft;
    for (std::size_t i = 0; i < plot_.series.size(); ++i) {
      const std::string& name = plot_.series[i].name;
      out_ += fmt::format(
          "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"29\" y2=\"29\" stroke=\"{}\" "
          "stroke-width=\"{}\"{}/><text class=\"tick\" x=\"{:.1f}\" y=\"33\">{}</text>\n",
          at, at + 16, kColours[i], plot_.stacked ? 8 : 2.5,
          plot_.series[i].dashed ? " stroke-dasharray=\"5 4\"" : "", at + 21, escape(name));
      at += 34 + 6.4 * static_cast<double>(name.size());
    }
  }

  const Plot& plot_;
  double step_ = 1, most_ = 1;
  std::string out_;
};

// ---- the four plots ----

std::vector<BenchRow> rows_of(const BenchReport& report, std::string_view what) {
  std::vector<BenchRow> rows;
  for (const BenchRow& row : report.rows)
    if (row.what == what) rows.push_back(row);
  std::ranges::sort(rows, {}, &BenchRow::batch);
  return rows;
}

Spread one(double value) {
  return {value, value, value};
}

template <class Value>
Series series(std::string name, const std::vector<BenchRow>& rows, Value&& value,
              bool dashed = false) {
  Series s{std::move(name), {}, dashed};
  for (const BenchRow& row : rows) s.values.push_back(value(row));
  return s;
}

std::vector<Plot> plots_of(const BenchReport& report) {
  const std::string arithmetic = report.has_integers() ? "integers" : report.flops_name;
  const auto arithmetic_share =
      report.has_integers() ? &BenchRow::integer_share : &BenchRow::flop_share;
  const auto prefill = rows_of(report, "prefill"), decode = rows_of(report, "decode");
  std::vector<int> batches;
  for (const BenchRow& row : decode) batches.push_back(row.batch);
  const auto rate = [](const BenchRow& r) { return r.rate; };
  const auto floor_rate = [](const BenchRow& r) { return one(r.rate.median / r.floor_share()); };
  const auto step = [](const BenchRow& r) {
    const double ms = 1000.0 * r.batch;
    return Spread{ms / r.rate.high, ms / r.rate.median, ms / r.rate.low};
  };
  const auto percent = [](double BenchRow::*share) {
    return [share](const BenchRow& r) { return one(100 * (r.*share)); };
  };
  std::vector<Plot> plots = {
      {"Throughput of all sequences",
       "tokens per second",
       batches,
       {series("decode", decode, rate), series("prefill", prefill, rate),
        series("decode at the ceiling", decode, floor_rate, true)}},
      {"Time of one decode step: every sequence gets a token",
       "milliseconds",
       batches,
       {series("measured", decode, step), series(
                                              "at the ceiling", decode,
                                              [](const BenchRow& r) {
                                                return one(1000.0 * r.batch * r.floor_share() /
                                                           r.rate.median);
                                              },
                                              true)}},
      {"Share of what the machine can do",
       "per cent",
       batches,
       {series("decode: memory", decode, percent(&BenchRow::read_share)),
        series("decode: " + arithmetic, decode, percent(arithmetic_share)),
        series("prefill: " + arithmetic, prefill, percent(arithmetic_share))}}};
  Plot memory{"Memory, as planned before loading", "MiB", {}, {}, true};
  const auto part = [&](std::string name, std::int64_t BenchMemory::*bytes) {
    Series s{std::move(name), {}, false};
    for (const BenchMemory& m : report.memory)
      s.values.push_back(one(static_cast<double>(m.*bytes) / (1 << 20)));
    memory.series.push_back(std::move(s));
  };
  for (const BenchMemory& m : report.memory) memory.batches.push_back(m.batch);
  part("weights", &BenchMemory::weights);
  part("keys and values", &BenchMemory::kv);
  part("activations, scratch", &BenchMemory::work);
  part("runtime", &BenchMemory::runtime);
  plots.push_back(std::move(memory));
  return plots;
}

std::string table(const BenchReport& report) {
  std::string out = fmt::format(
      "<table><thead><tr><th></th><th>batch</th><th>tok/s</th><th>low</th><th>high</th><th>GB/s</"
      "th>"
      "<th>GFLOP/s</th><th>% read</th><th>% {}</th><th>% floor</th>{}</tr></thead><tbody>\n",
      escape(report.flops_name), report.has_integers() ? "<th>% integer</th>" : "");
  for (const BenchRow& r : report.rows) {
    out += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{:.1f}</td><td>{:.1f}</td><td>{:.1f}</td><td>{:.1f}</td>"
        "<td>{:.1f}</td><td>{:.0f}</td><td>{:.0f}</td><td>{:.0f}</td>",
        escape(r.what), r.batch, r.rate.median, r.rate.low, r.rate.high, r.gb, r.gflop,
        100 * r.read_share, 100 * r.flop_share, 100 * r.floor_share());
    if (report.has_integers()) out += fmt::format("<td>{:.0f}</td>", 100 * r.integer_share);
    out += "</tr>\n";
  }
  return out + "</tbody></table>\n";
}

constexpr const char* kStyle =
    "body{font:15px/1.45 system-ui,sans-serif;color:#1c1c1c;background:#fff;max-width:1100px;"
    "margin:2em auto;padding:0 1em}h1{font-size:1.4em;margin-bottom:.2em}"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:18px}"
    "svg{width:100%;height:auto}.title{font:600 14px system-ui,sans-serif}"
    ".tick{font:11px system-ui,sans-serif;fill:#444}.grid{stroke:#ddd}"
    "table{border-collapse:collapse;margin:1.5em 0}td,th{padding:3px 12px;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child{text-align:left}";

}  // namespace

std::string bench_page(const BenchReport& report) {
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>herd bench: {0}"
      "</title>\n<style>{1}</style></head><body>\n<h1>{0}</h1>\n<p>{2}. {3} prompt tokens and {4} "
      "decoded for each sequence, {5} repeats: medians, with bars from the lowest to the highest. "
      "Ceilings of the same machine, measured between the runs: reading {6:.1f} GB/s, {7} {8:.1f} "
      "GFLOP/s{9}.</p>\n<div class=\"plots\">\n",
      escape(report.model), kStyle, escape(report.backend), report.prompt, report.max_tokens,
      report.repeats, report.read.median / 1e9, escape(report.flops_name),
      report.flops.median / 1e9,
      report.has_integers() ? fmt::format(", integers {:.1f} GFLOP/s", report.integers.median / 1e9)
                            : "");
  for (const Plot& plot : plots_of(report)) out += Drawing(plot).svg();
  out += "</div>\n" + table(report);
  out += fmt::format(
      "<p>The ceiling counts each weight, and each cached key and value of a sequence, once a "
      "step; % floor is the larger of the shares of reading and of {} arithmetic. Loading is not "
      "counted.</p>\n",
      escape(report.flops_name));
  return out + "</body></html>\n";
}

}  // namespace cli
