// From the caller's options to the sizes a model is made for.
#include "engine/limits.h"

#include <fmt/format.h>

#include <algorithm>

namespace herd {
namespace {

constexpr std::int32_t kPageSize = 32;
constexpr std::int32_t kLeastLogits = 64;  // so that forward_all works in useful steps
constexpr std::int32_t kHostRows = 512, kDeviceRows = 2048;  // of a step, unless told

Status check_range(std::string_view name, std::int64_t value, std::int64_t min, std::int64_t max) {
  if (value >= min && value <= max) return {};
  return {Code::out_of_range, fmt::format("{} {}: must be {} to {}", name, value, min, max)};
}

Status check_options(const ModelOptions& o, const ModelConfig& config) {
  for (Status status : {check_range("batch_size", o.batch_size, 1, 4096),
                        check_range("context", o.context, 0, config.context),
                        check_range("max_rows", o.max_rows, 0, 1 << 16),
                        check_range("kv_tokens", o.kv_tokens, 0, std::int64_t{1} << 31)})
    if (!status.ok()) return status;
  return {};
}

}  // namespace

Result<ModelLimits> choose_limits(const ModelOptions& options, const ModelConfig& config,
                                  const Backend& backend) {
  if (Status status = check_options(options, config); !status.ok()) return status.error();
  ModelLimits limits;
  limits.context = options.context == 0 ? config.context : options.context;
  limits.kv_type = options.kv_type;
  limits.page_size = kPageSize;
  const std::int32_t rows = backend.memory().separate ? kDeviceRows : kHostRows;
  limits.max_rows = std::max(options.max_rows > 0 ? options.max_rows : rows, options.batch_size);
  limits.max_sequences = options.batch_size;
  limits.max_logits = std::max(options.batch_size, std::min(kLeastLogits, limits.max_rows));
  const KvLayout layout{config.layers,  config.kv_heads, config.head_size, kPageSize, 1,
                        options.kv_type};
  std::int64_t tokens = options.kv_tokens;
  if (tokens == 0) {
    tokens = std::int64_t{options.batch_size} * limits.context;
    const std::int64_t quarter = backend.memory().total / 4 * kPageSize / backend.kv_bytes(layout);
    if (quarter > 0) tokens = std::min(tokens, std::max<std::int64_t>(quarter, limits.context));
  }
  // Every sequence may leave its last page part empty.
  const std::int64_t pages = (tokens + kPageSize - 1) / kPageSize + options.batch_size;
  if (pages * kPageSize > (std::int64_t{1} << 31) - 1)
    return Error{Code::out_of_range,
                 fmt::format("kv_tokens {}: at most {}", tokens, (std::int64_t{1} << 30))};
  limits.kv_pages = static_cast<std::int32_t>(pages);
  return limits;
}

Result<MemoryNeed> memory_need(const gguf::File& file, const Backend& backend,
                               const ModelLimits& limits, const ModelOptions& options) {
  const auto plan = Model::plan(file, backend, limits);
  if (!plan.ok()) return plan.error();
  MemoryNeed need;
  need.weights = plan->weights;
  need.kv = plan->kv;
  need.kv_per_token = plan->kv_per_token;
  need.activations = plan->activations;
  need.scratch = plan->scratch;
  const DeviceMemory memory = backend.memory();
  if (!memory.separate) {
    // The host's copy of the logits counts as well.
    need.activations += std::int64_t{limits.max_logits} * plan->vocab * std::int64_t{4};
    // Program, thread stacks and the loading slab, and a vocabulary's strings and tables.
    std::int64_t metadata = 0;
    for (const gguf::KeyValue& pair : file.metadata())
      metadata += static_cast<std::int64_t>(pair.value.text_array.size()) * 150 +
                  static_cast<std::int64_t>(pair.value.array_size()) * 8;
    need.runtime = (std::int64_t{12} << 20) + metadata;
  }
  need.total = need.weights + need.kv + need.activations + need.scratch + need.runtime;
  need.available = memory.available;
  need.context = limits.context;
  need.kv_tokens = std::int64_t{limits.kv_pages} * limits.page_size;
  need.batch_size = options.batch_size;
  return need;
}

Status check_fits(const MemoryNeed& need) {
  if (need.available <= 0 || need.total <= need.available) return {};
  const std::int64_t left = need.available - (need.total - need.kv);
  const std::string remedy =
      left >= need.kv_per_token
          ? fmt::format("lower kv_tokens (room is left for {}), batch_size or context",
                        left / need.kv_per_token)
          : "lower max_rows, or take a model with fewer or smaller weights";
  return {Code::resource_exhausted,
          fmt::format("memory: {} bytes needed (weights {}, KV {} for {} tokens, activations {}, "
                      "scratch {}, runtime {}), {} available; {}",
                      need.total, need.weights, need.kv, need.kv_tokens, need.activations,
                      need.scratch, need.runtime, need.available, remedy)};
}

}  // namespace herd
