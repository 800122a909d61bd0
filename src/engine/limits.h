// From the caller's options to the sizes a model is made for, and what they cost.
#pragma once

#include "herd/llama.h"
#include "model/model.h"

namespace herd {

/// Errors: out_of_range, naming the option, its value and its limits.
Result<ModelLimits> choose_limits(const ModelOptions& options, const ModelConfig& config,
                                  const Backend& backend);

/// Memory by term, without loading; errors as Model::plan.
Result<MemoryNeed> memory_need(const gguf::File& file, const Backend& backend,
                               const ModelLimits& limits, const ModelOptions& options);

/// Error: resource_exhausted when the need is above what is available, naming the terms.
Status check_fits(const MemoryNeed& need);

}  // namespace herd
