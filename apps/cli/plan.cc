// herd plan: the memory a model will need, before anything is loaded.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "common.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  bool json = false;
};

/// Sequences of the planned context that fit the memory available now.
std::int64_t most_sequences(const herd::MemoryNeed& need) {
  const std::int64_t left = need.available - (need.total - need.kv);
  return std::max<std::int64_t>(0,
                                left / std::max<std::int64_t>(1, need.kv_per_token * need.context));
}

void print_json(const herd::MemoryNeed& need, const std::string& device) {
  nlohmann::ordered_json out;
  out["device"] = device;
  out["weights"] = need.weights;
  out["kv"] = need.kv;
  out["kv_per_token"] = need.kv_per_token;
  out["activations"] = need.activations;
  out["scratch"] = need.scratch;
  out["runtime"] = need.runtime;
  out["total"] = need.total;
  out["available"] = need.available;
  out["context"] = need.context;
  out["kv_tokens"] = need.kv_tokens;
  out["batch_size"] = need.batch_size;
  out["most_sequences"] = most_sequences(need);
  std::cout << dump(out) << "\n";
}

void print_line(std::string_view name, std::int64_t bytes, const std::string& note) {
  std::cout << fmt::format("{:<12} {:>11} {:>16}  {}\n", name,
                           human_bytes(static_cast<double>(bytes)), bytes, note);
}

int run(const Flags& flags) {
  const auto need = herd::LlamaModel::plan(flags.model.path, flags.model.options());
  if (!need.ok()) return fail(need.error());
  if (flags.json) {
    print_json(*need, flags.model.device);
    return kOk;
  }
  print_line("weights", need->weights, "repacked for " + flags.model.device);
  print_line("KV cache", need->kv,
             fmt::format("{} tokens of {} bytes", need->kv_tokens, need->kv_per_token));
  print_line("activations", need->activations, "");
  print_line("scratch", need->scratch, "");
  print_line("runtime", need->runtime, "program and vocabulary, estimated");
  print_line("total", need->total,
             fmt::format("batch size {}, context {}", need->batch_size, need->context));
  print_line(
      "available", need->available,
      fmt::format("room for {} sequences of {} tokens", most_sequences(*need), need->context));
  return kOk;
}

}  // namespace

void add_plan(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("plan", "memory need by term, before anything is loaded");
  flags->model.add_path(*command, true);
  flags->model.add_device(*command);
  flags->model.add_sizes(*command);
  command->add_flag("--json", flags->json, "for machines; sizes in bytes");
  command->footer(
      "Context 0 here means the context the model was trained for.\n"
      "Example: herd plan model.gguf --batch-size 8 --context 2048");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
