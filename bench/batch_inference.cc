// Batched inference on any device: batch x sequence x weight type, on made models. Counters:
// tokens/s, weight bytes a step, and KV bytes a sequence, which must not depend on the batch.
// usage: batch_inference [--device=cpu] [--shape=tiny] [Google Benchmark's own options]
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "herd/llama.h"
#include "herd/make_model.h"

namespace {

struct Setup {
  herd::DeviceType device = herd::DeviceType::cpu;
  std::string shape = "tiny";
  std::filesystem::path folder;

  std::string path(const std::string& type) const { return folder / (type + ".gguf"); }
};

herd::ModelOptions options_for(const Setup& setup, int batch, int sequence) {
  herd::ModelOptions options;
  options.device = setup.device;
  options.batch_size = batch;
  options.context = sequence + 2;
  return options;
}

/// KV bytes of one sequence; 0 where the plan fails.
std::int64_t kv_each(const Setup& setup, const std::string& path, int batch, int sequence) {
  const auto need = herd::LlamaModel::plan(path, options_for(setup, batch, sequence));
  return need.ok() ? need->kv / batch : 0;
}

/// One step: the last token of each sequence, after `sequence` - 1 cached ones.
void decode(benchmark::State& state, const Setup& setup, const std::string& type, int batch,
            int sequence) {
  auto model = herd::LlamaModel::from_gguf(setup.path(type), options_for(setup, batch, sequence));
  if (!model.ok()) return state.SkipWithError(model.error().message.c_str());
  if (kv_each(setup, setup.path(type), batch, sequence) !=
      kv_each(setup, setup.path(type), 1, sequence))
    return state.SkipWithError("KV memory is not linear in the batch");
  const auto n = static_cast<std::size_t>(batch);
  const std::vector<herd::TokenId> prompt(static_cast<std::size_t>(sequence - 1), 5);
  const std::vector<std::int32_t> start(n, sequence - 1);
  if (sequence > 1)
    if (const auto fed = model->forward_batch(std::vector(n, prompt)); !fed.ok())
      return state.SkipWithError(fed.error().message.c_str());
  const std::vector<std::vector<herd::TokenId>> next(n, {7});
  const herd::ModelCounters before = model->counters();
  for (auto _ : state) {
    const auto logits = model->forward_batch_with_position(next, start);
    if (!logits.ok()) return state.SkipWithError(logits.error().message.c_str());
    benchmark::DoNotOptimize(logits->data());
  }
  const herd::ModelCounters after = model->counters();
  const auto steps = static_cast<double>(after.steps - before.steps);
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(after.rows - before.rows),
                                                  benchmark::Counter::kIsRate);
  state.counters["bytes/step"] =
      static_cast<double>(after.weight_bytes - before.weight_bytes) / steps;
  state.counters["kv/sequence"] =
      static_cast<double>(kv_each(setup, setup.path(type), batch, sequence));
}

bool take(std::string_view argument, std::string_view name, std::string& value) {
  if (!argument.starts_with(name)) return false;
  value = argument.substr(name.size());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Setup setup;
  std::string device = "cpu";
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i)
    if (!take(argv[i], "--device=", device) && !take(argv[i], "--shape=", setup.shape)) {
      std::fprintf(stderr, "usage: batch_inference [--device=D] [--shape=S]\n");
      return 2;
    }
  for (const auto type :
       {herd::DeviceType::cpu, herd::DeviceType::reference, herd::DeviceType::cuda,
        herd::DeviceType::metal, herd::DeviceType::metal_emulated})
    if (herd::to_string(type) == device) setup.device = type;
  setup.folder =
      std::filesystem::temp_directory_path() / ("herd_batch_inference_" + std::to_string(getpid()));
  std::filesystem::create_directories(setup.folder);
  for (const std::string type : {"Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"}) {
    const auto written = herd::write_random_model(setup.shape, type, 1, setup.path(type));
    if (!written.ok()) {
      std::fprintf(stderr, "%s\n", written.error().message.c_str());
      return 1;
    }
    for (const int batch : {1, 2, 4, 8, 16})
      for (const int sequence : {1, 16, 128, 512})
        benchmark::RegisterBenchmark(
            (type + "/batch:" + std::to_string(batch) + "/sequence:" + std::to_string(sequence))
                .c_str(),
            [=](benchmark::State& state) { decode(state, setup, type, batch, sequence); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
  }
  benchmark::RunSpecifiedBenchmarks();
  std::filesystem::remove_all(setup.folder);
  return 0;
}
