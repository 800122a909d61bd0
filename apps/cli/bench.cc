// herd bench: speed, as shares of what the machine can do.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>

#include "bench_report.h"
#include "common.h"
#include "herd/ceilings.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  int prompt = 512, n = 128, repeats = 5;
  std::vector<int> batches = {1, 4, 16};
  int max_rows = 0;
  bool json = false;
  std::string html;
};

/// What the machine can do, in bytes and operations a second.
struct Ceilings {
  Spread read, flops, integers;
};
Ceilings spread_of(const std::vector<herd::MeasuredCeilings>& measured) {
  std::vector<double> read, flops, integers;
  for (const herd::MeasuredCeilings& m : measured) {
    read.push_back(m.read_bytes_per_second);
    flops.push_back(m.flops_per_second);
    integers.push_back(m.integer_flops_per_second);
  }
  return {spread(read), spread(flops), spread(integers)};
}

/// One timed run, and what it moved and computed.
struct Run {
  double seconds = 0, bytes = 0, flops = 0;
  std::int64_t tokens = 0;
};

std::vector<std::vector<herd::TokenId>> random_ids(int batch, int length, int vocab) {
  std::vector<std::vector<herd::TokenId>> ids(static_cast<std::size_t>(batch));
  std::uint64_t state = 88172645463325252ull;  // xorshift64: any fixed text will do
  for (auto& sequence : ids)
    for (int i = 0; i < length; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      sequence.push_back(static_cast<herd::TokenId>(state % static_cast<std::uint64_t>(vocab)));
    }
  return ids;
}

class Bench {
 public:
  Bench(herd::LlamaModel& model, std::int64_t kv_per_token)
      : model_(model), info_(model.info()), kv_per_token_(static_cast<double>(kv_per_token)) {}

  /// Every sequence of the batch gets `length` tokens.
  herd::Result<Run> prefill(int batch, int length) {
    model_.clear_batch();
    const auto ids = random_ids(batch, length, info_.vocab);
    Run run = start();
    if (const auto done = model_.forward_batch(ids); !done.ok()) return done.error();
    stop(run);
    run.tokens = std::int64_t{batch} * length;
    for (int i = 1; i <= length; ++i) run.flops += batch * attention_flops(i);
    run.bytes += kv_per_token_ * static_cast<double>(run.tokens);  // each written and read once
    return run;
  }

  /// `steps` more for each. REQUIRES: `length` tokens in each sequence's cache, as prefill leaves
  /// it.
  herd::Result<Run> decode(int batch, int length, int steps) {
    std::vector<herd::TokenId> next;
    for (const auto& ids : random_ids(batch, 1, info_.vocab)) next.push_back(ids[0]);
    Run run = start();
    if (const auto done = model_.continue_greedy(next, steps); !done.ok()) return done.error();
    stop(run);
    run.tokens = std::int64_t{batch} * steps;
    for (int i = 1; i <= steps; ++i) {
      run.flops += batch * attention_flops(length + i);
      run.bytes += batch * kv_per_token_ * (length + i);
    }
    return run;
  }

 private:
  /// Two multiply-adds per query head, component and key.
  double attention_flops(int keys) const {
    return 4.0 * keys * info_.heads * info_.head_size * info_.layers;
  }
  Run start() {
    before_ = model_.counters();
    return {seconds_now(), 0, 0, 0};
  }
  void stop(Run& run) {
    run.seconds = seconds_now() - run.seconds;
    const herd::ModelCounters after = model_.counters();
    run.bytes = static_cast<double>(after.weight_bytes - before_.weight_bytes);
    run.flops = static_cast<double>(after.matmul_flops - before_.matmul_flops);
  }

  herd::LlamaModel& model_;
  herd::ModelInfo info_;
  double kv_per_token_;
  herd::ModelCounters before_;
};

BenchRow make_row(std::string what, int batch, const std::vector<Run>& runs,
                  const Ceilings& ceilings) {
  std::vector<double> rates;
  for (const Run& run : runs) rates.push_back(static_cast<double>(run.tokens) / run.seconds);
  const Spread rate = spread(rates);
  const Run& any = runs.front();  // all moved and computed the same
  const double seconds = static_cast<double>(any.tokens) / rate.median;
  const double bytes = any.bytes / seconds, flops = any.flops / seconds;
  return {std::move(what),
          batch,
          rate,
          bytes / 1e9,
          flops / 1e9,
          bytes / ceilings.read.median,
          flops / ceilings.flops.median,
          ceilings.integers.median > 0 ? flops / ceilings.integers.median : 0.0};
}

/// Everything that was timed, in rounds.
struct Rounds {
  std::vector<std::vector<Run>> prefills, decodes;  // [batch size][round]
  std::vector<herd::MeasuredCeilings> ceilings;     // [round]; of a device, once
};

/// Repeats of every batch size, taking turns; the first round warms up and is not kept. The
/// machine's ceilings are measured in each round too: on a shared machine they move as much as the
/// rest.
herd::Status measure(const Flags& flags, Bench& bench, Progress& progress, Rounds& rounds) {
  for (int repeat = -1; repeat < flags.repeats; ++repeat) {
    if (flags.model.device != "cuda" && repeat >= 0) {
      progress.status(fmt::format("round {} of {}, ceilings", repeat + 1, flags.repeats));
      rounds.ceilings.push_back(herd::measure_ceilings(flags.model.threads));
    }
    for (std::size_t i = 0; i < flags.batches.size(); ++i) {
      progress.status(fmt::format("round {} of {}, batch {}", std::max(repeat, 0) + 1,
                                  flags.repeats, flags.batches[i]));
      const auto prefill = bench.prefill(flags.batches[i], flags.prompt);
      if (!prefill.ok()) return prefill.status();
      const auto decode =
          bench.decode(flags.batches[i], flags.prompt, repeat < 0 ? std::min(flags.n, 4) : flags.n);
      if (!decode.ok()) return decode.status();
      if (interrupted()) return {herd::Code::cancelled, "stopped"};
      if (repeat < 0) continue;
      rounds.prefills[i].push_back(*prefill);
      rounds.decodes[i].push_back(*decode);
    }
  }
  return {};
}

/// Sized for the largest batch, or for one.
herd::ModelOptions options_for(const Flags& flags, int batch) {
  herd::ModelOptions options = flags.model.options();
  options.batch_size = batch;
  options.context = flags.prompt + flags.n;
  options.kv_tokens = std::int64_t{batch} * options.context;
  options.max_rows = flags.max_rows;
  return options;
}

herd::Result<std::vector<BenchMemory>> plan_memory(const Flags& flags) {
  std::vector<int> batches = flags.batches;
  std::sort(batches.begin(), batches.end());
  std::vector<BenchMemory> all;
  for (const int batch : batches) {
    const auto need = herd::LlamaModel::plan(flags.model.path, options_for(flags, batch));
    if (!need.ok()) return need.error();
    all.push_back(
        {batch, need->weights, need->kv, need->activations + need->scratch, need->runtime});
  }
  return all;
}

int show(const Flags& flags, const BenchReport& report) {
  std::cout << (flags.json ? bench_json(report) : bench_text(report));
  if (flags.html.empty()) return kOk;
  std::ofstream out(flags.html, std::ios::binary);
  out << bench_page(report);
  out.close();
  return out ? kOk : fail(flags.html + ": cannot be written");
}

BenchReport make_report(const Flags& flags, const herd::ModelInfo& info, const Rounds& rounds,
                        std::vector<BenchMemory> memory) {
  const Ceilings ceilings = spread_of(rounds.ceilings);
  BenchReport report;
  report.model = info.name;
  report.backend = info.backend;
  report.flops_name = flags.model.device == "cuda" ? "f16" : "f32";
  report.prompt = flags.prompt, report.max_tokens = flags.n, report.repeats = flags.repeats;
  report.read = ceilings.read, report.flops = ceilings.flops;
  report.integers = ceilings.integers;
  report.memory = std::move(memory);
  for (std::size_t i = 0; i < flags.batches.size(); ++i)
    report.rows.push_back(make_row("prefill", flags.batches[i], rounds.prefills[i], ceilings));
  for (std::size_t i = 0; i < flags.batches.size(); ++i)
    report.rows.push_back(make_row("decode", flags.batches[i], rounds.decodes[i], ceilings));
  return report;
}

int run(const Flags& flags) {
  const int largest = *std::max_element(flags.batches.begin(), flags.batches.end());
  const herd::ModelOptions options = options_for(flags, largest);
  const auto need = herd::LlamaModel::plan(flags.model.path, options);
  if (!need.ok()) return fail(need.error());
  auto memory = plan_memory(flags);
  if (!memory.ok()) return fail(memory.error());
  auto model = load(flags.model.path, options);
  if (!model.ok()) return fail(model.error());

  catch_interrupt();
  Progress progress("measuring");
  Rounds rounds = {std::vector<std::vector<Run>>(flags.batches.size()),
                   std::vector<std::vector<Run>>(flags.batches.size()),
                   {}};
  if (flags.model.device == "cuda") {
    const auto measured = herd::measure_cuda_ceilings();
    if (!measured.ok()) return fail(measured.error());
    rounds.ceilings.push_back(*measured);
  }
  Bench bench(*model, need->kv_per_token);
  const herd::Status status = measure(flags, bench, progress, rounds);
  progress.clear();
  show_op_times(*model);
  if (!status.ok()) return interrupted() ? kInterrupted : fail(status.error());
  return show(flags, make_report(flags, model->info(), rounds, std::move(*memory)));
}

}  // namespace

void add_bench(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("bench", "prefill and decode speed, as shares of what the machine can do");
  flags->model.add_path(*command);
  command->add_option("-p,--prompt", flags->prompt, "prompt tokens per sequence")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("-n,--max-tokens", flags->n, "tokens decoded per sequence")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("-b,--batch", flags->batches, "batch sizes")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--repeats", flags->repeats, "runs of each; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--max-rows", flags->max_rows,
                   "rows in one step: prompts are fed in chunks; 0: as the device likes")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "for machines: ceilings, results[] and memory[]");
  command->add_option("--html", flags->html, "also write a page with plots to this file");
  flags->model.add_device(*command);
  flags->model.add_profile(*command);
  command->footer(
      "% read and % f32 are shares of the memory bandwidth and the f32 rate measured between the "
      "run,\n"
      "counting each weight, and each cached key and value of a sequence, once a step. % floor is "
      "the\n"
      "larger of the two: how close to the limit that binds. Products with quantised weights are\n"
      "sums of integers, which processors are faster at: % integer is the share of that rate, and\n"
      "% f32 may pass 100. Loading is not counted.\n"
      "Examples:\n"
      "  herd bench -m model.gguf -p 512 -n 128 -b 1,4,16\n"
      "  herd bench -m model.gguf -b 1,2,4,8,16,32 --html bench.html");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
