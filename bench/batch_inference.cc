// Batched inference on any device: batch x sequence x weight type, on made models.
//   TYPE/prefill/batch:B/sequence:S   B whole sequences of S tokens in one call
//   TYPE/decode/batch:B/sequence:S    one token more for each of B sequences of S - 1
//   TYPE/memory/sequence:S            what loading and a step really take, which must be linear in
//   the batch
// Counters: tokens/s; bytes/step, the weights and cached keys and values that a step reads;
// bytes/sequence. Exit status: 0 done, 1 a benchmark failed, 2 wrong use.
#include <benchmark/benchmark.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/memory.h"
#include "herd/llama.h"
#include "herd/make_model.h"

namespace {

constexpr const char* kUsage =
    "usage: batch_inference [--device=D] [--shape=S] [Google Benchmark's own options: "
    "--benchmark_help]\n"
    "D: cpu, reference, cuda, metal, metal-emulated; S: a shape of herd make-model, tiny by "
    "default\n";
constexpr herd::DeviceType kDevices[] = {herd::DeviceType::cpu, herd::DeviceType::reference,
                                         herd::DeviceType::cuda, herd::DeviceType::metal,
                                         herd::DeviceType::metal_emulated};
constexpr int kBatches[] = {1, 2, 4, 8, 16}, kSequences[] = {1, 16, 128, 512};
constexpr const char* kTypes[] = {"Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"};

struct Case {
  std::string type;
  int batch = 1, sequence = 1;
  bool operator==(const Case&) const = default;
};

/// The models under test: one file at a time (they may be large), and the last one loaded, because
/// a benchmark is called several times. The folder goes with it.
class Models {
 public:
  Models(herd::DeviceType device, std::string shape) : device_(device), shape_(std::move(shape)) {
    std::string name = (std::filesystem::temp_directory_path() / "batch_inference.XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) folder_ = name;
  }
  ~Models() {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  Models(const Models&) = delete;
  Models& operator=(const Models&) = delete;

  bool on_gpu_memory() const { return device_ == herd::DeviceType::cuda; }
  herd::ModelOptions options(const Case& c) const {
    herd::ModelOptions options;
    options.device = device_;
    options.batch_size = c.batch;
    options.context = c.sequence + 1;
    return options;
  }
  /// Where a model of these weights lies.
  herd::Result<std::string> file(const std::string& type) {
    if (folder_.empty()) return herd::Error{herd::Code::io, "no temporary folder can be made"};
    const std::string path = folder_ + "/model.gguf";
    if (type == type_) return path;
    loaded_.reset(), type_.clear();
    if (const auto written = herd::write_random_model(shape_, type, 1, path); !written.ok())
      return written.error();
    type_ = type;
    return path;
  }
  herd::Result<herd::LlamaModel*> load(const Case& c) {
    const auto path = file(c.type);
    if (!path.ok()) return path.error();
    if (!loaded_ || !(case_ == c)) {
      loaded_.reset();
      auto model = herd::LlamaModel::from_gguf(*path, options(c));
      if (!model.ok()) return model.error();
      loaded_.emplace(*std::move(model));
      case_ = c;
    }
    loaded_->clear_batch();
    return &*loaded_;
  }
  void unload() { loaded_.reset(); }

 private:
  herd::DeviceType device_;
  std::string shape_, folder_, type_;
  std::optional<herd::LlamaModel> loaded_;
  Case case_;
};

int failures = 0;
void fail(benchmark::State& state, const std::string& message) {
  ++failures;
  state.SkipWithError(message.c_str());
}

using Ids = std::vector<std::vector<herd::TokenId>>;
Ids prompts(const herd::LlamaModel& model, int batch, int length) {
  Ids ids(static_cast<std::size_t>(batch));
  for (std::size_t s = 0; s < ids.size(); ++s)
    for (int i = 0; i < length; ++i)
      ids[s].push_back((static_cast<herd::TokenId>(s) * 31 + i * 7 + 5) % model.info().vocab);
  return ids;
}

/// Calls `step` as often as Google Benchmark asks and counts what it did.
template <class Step>
void measure(benchmark::State& state, const herd::LlamaModel& model, double kv_bytes,
             const Step& step) {
  const herd::ModelCounters before = model.counters();
  for (auto _ : state) {
    const auto logits = step();
    if (!logits.ok()) return fail(state, logits.error().message);
    benchmark::DoNotOptimize(logits->data());
  }
  const herd::ModelCounters after = model.counters();
  const auto steps = static_cast<double>(after.steps - before.steps);
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(after.rows - before.rows),
                                                  benchmark::Counter::kIsRate);
  state.counters["bytes/step"] = (static_cast<double>(after.weight_bytes - before.weight_bytes) +
                                  kv_bytes * static_cast<double>(state.iterations())) /
                                 steps;
}

void run(benchmark::State& state, Models& models, const Case& c, bool decode) {
  const auto model = models.load(c);
  if (!model.ok()) return fail(state, model.error().message);
  const auto need = herd::LlamaModel::plan(*models.file(c.type), models.options(c));
  if (!need.ok()) return fail(state, need.error().message);
  herd::LlamaModel& m = **model;
  const double kv_bytes = static_cast<double>(need->kv_per_token) * c.batch * c.sequence;
  if (!decode) {
    const Ids ids = prompts(m, c.batch, c.sequence);
    const std::vector<std::int32_t> start(ids.size(), 0);
    return measure(state, m, kv_bytes, [&] { return m.forward_batch_with_position(ids, start); });
  }
  if (c.sequence > 1)
    if (const auto fed = m.forward_batch(prompts(m, c.batch, c.sequence - 1)); !fed.ok())
      return fail(state, fed.error().message);
  const Ids next = prompts(m, c.batch, 1);
  const std::vector<std::int32_t> start(next.size(), c.sequence - 1);
  measure(state, m, kv_bytes, [&] { return m.forward_batch_with_position(next, start); });
}

// ---- memory ----

/// What a model and a step of whole sequences take: resident memory, or what the device has less
/// of.
herd::Result<double> memory_of(Models& models, const Case& c) {
  models.unload();
#ifdef __GLIBC__
  malloc_trim(0);  // so that what was freed is not taken again unseen
#endif
  const auto path = models.file(c.type);
  if (!path.ok()) return path.error();
  const auto used = [&]() -> double {
    if (!models.on_gpu_memory()) return static_cast<double>(herd::current_rss());
    const auto need = herd::LlamaModel::plan(*path, models.options(c));
    return need.ok() ? -static_cast<double>(need->available) : 0;
  };
  const double before = used();
  const auto model = models.load(c);
  if (!model.ok()) return model.error();
  const auto logits = (*model)->forward_batch(prompts(**model, c.batch, c.sequence));
  if (!logits.ok()) return logits.error();
  return used() - before;
}

/// Each sequence more takes the same, and no more than planned.
void memory(benchmark::State& state, Models& models, const Case& c) {
  constexpr double kNoise = 2 << 20;  // allocators keep some memory, and give some back
  std::map<int, double> taken, planned;
  for ([[maybe_unused]] auto _ : state) {
    for (const int batch : kBatches) {
      const Case here{c.type, batch, c.sequence};
      if (batch == 1) static_cast<void>(memory_of(models, here));  // what a process takes once
      const auto bytes = memory_of(models, here);
      const auto need = herd::LlamaModel::plan(*models.file(c.type), models.options(here));
      if (!bytes.ok()) return fail(state, bytes.error().message);
      if (!need.ok()) return fail(state, need.error().message);
      taken[batch] = *bytes;
      const auto model = models.load(here);  // still there
      if (!model.ok()) return fail(state, model.error().message);
      const double host_logits = 8.0 * batch * (*model)->info().vocab;  // a copy, and the answer
      planned[batch] =
          static_cast<double>(need->kv + need->activations + need->scratch) + host_logits;
    }
  }
  const double most = kBatches[std::size(kBatches) - 1];
  const auto slope = [&](std::map<int, double>& of) {
    return (of[static_cast<int>(most)] - of[1]) / (most - 1);
  };
  const double each = slope(taken);
  state.counters["bytes/sequence"] = each;
  state.counters["planned/sequence"] = slope(planned);
  for (const auto& [batch, bytes] : taken) {
    const double line = taken[1] + (batch - 1) * each;
    if (!(std::fabs(bytes - line) <=
          kNoise + 0.1 * std::fabs(taken[static_cast<int>(most)] - taken[1])))
      return fail(state, "memory is not linear in the batch: " + std::to_string(batch) +
                             " sequences take " + std::to_string(bytes) + " bytes, the line says " +
                             std::to_string(line));
  }
  if (!(each * (most - 1) <= 1.1 * slope(planned) * (most - 1) + kNoise))
    fail(state, "a sequence takes " + std::to_string(each) + " bytes, planned are " +
                    std::to_string(slope(planned)));
}

void register_all(Models& models) {
  using benchmark::RegisterBenchmark;
  for (const std::string type : kTypes) {
    for (const int sequence : kSequences) {
      const std::string of_sequence = "/sequence:" + std::to_string(sequence);
      for (const bool decode : {false, true})
        for (const int batch : kBatches) {
          const std::string name = type + (decode ? "/decode" : "/prefill") +
                                   "/batch:" + std::to_string(batch) + of_sequence;
          RegisterBenchmark(name.c_str(),
                            [=, &models](benchmark::State& state) {
                              run(state, models, {type, batch, sequence}, decode);
                            })
              ->Unit(benchmark::kMillisecond)
              ->UseRealTime();
        }
      RegisterBenchmark((type + "/memory" + of_sequence).c_str(),
                        [=, &models](benchmark::State& state) {
                          memory(state, models, {type, 1, sequence});
                        })
          ->Unit(benchmark::kMillisecond)
          ->Iterations(1);
    }
  }
}

bool take(std::string_view argument, std::string_view name, std::string& value) {
  if (!argument.starts_with(name)) return false;
  value = argument.substr(name.size());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::string device = "cpu", shape = "tiny";
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (take(argv[i], "--device=", device) || take(argv[i], "--shape=", shape)) continue;
    std::fprintf(stderr, "batch_inference: unknown argument \"%s\"\n%s", argv[i], kUsage);
    return 2;
  }
  const auto* known =
      std::find_if(std::begin(kDevices), std::end(kDevices),
                   [&](herd::DeviceType d) { return herd::to_string(d) == device; });
  if (known == std::end(kDevices)) {
    std::fprintf(stderr, "batch_inference: unknown device \"%s\"\n%s", device.c_str(), kUsage);
    return 2;
  }
  if (const auto shapes = herd::random_model_shapes();
      std::ranges::find(shapes, shape) == shapes.end()) {
    std::fprintf(stderr, "batch_inference: unknown shape \"%s\"\n%s", shape.c_str(), kUsage);
    return 2;
  }
  Models models(*known, shape);
  register_all(models);
  if (benchmark::RunSpecifiedBenchmarks() == 0) return 1;  // a filter that leaves nothing
  return failures == 0 ? 0 : 1;
}
