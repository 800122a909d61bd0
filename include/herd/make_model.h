// Models of published shapes with random weights, for speed measurements.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "herd/status.h"
#include "herd/types.h"

namespace herd {

/// The names write_random_model takes.
std::vector<std::string_view> random_model_shapes();
std::vector<std::string_view> random_model_types();

/// Writes a model of `shape` with weights of `type` ("Q4_K_M", "Q8_0", "F16" ...), the same bytes
/// for the same seed. Errors: invalid_argument naming what is known; io.
Status write_random_model(std::string_view shape, std::string_view type, std::uint64_t seed,
                          const std::string& path, const ProgressFn& progress = {});

}  // namespace herd
