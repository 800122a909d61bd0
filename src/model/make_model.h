// Models of a published shape with random weights: for speed measurements, and as test data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "herd/status.h"
#include "herd/types.h"

namespace herd {

/// Names that make_model takes, in the order to list them.
std::vector<std::string_view> made_shapes();   // "llama-3-8b", "tiny", ...
std::vector<std::string_view> made_recipes();  // "Q4_K_M", "F16", ...

/// The model as a writer that produces its tensors while writing. The same bytes for the same
/// arguments. A recipe that names one type gives matrices that type, except that of a quantised
/// model the output matrix (or a tied embedding) is Q6_K as usual, unless it is Q8_0; the K_M ones
/// also raise some value and down matrices. Rows that are no multiple of a type's block fall back
/// to a type with blocks of 32. Vectors are F32. Errors: invalid_argument for an unknown shape or
/// recipe, naming those known.
Result<gguf::Writer> random_model(std::string_view shape, std::string_view recipe,
                                  std::uint64_t seed);

/// random_model() written to `path`. Errors: also io.
Status make_model(std::string_view shape, std::string_view recipe, std::uint64_t seed,
                  const std::string& path, const ProgressFn& progress = {});

/// What rope_freqs.weight holds in Llama 3.1 and later: divisors of the rotation frequencies, 1 for
/// wavelengths of up to a quarter of the 8192 positions first trained, `factor` for those beyond
/// them, a smooth change between. [rope_size / 2]
std::vector<float> llama3_rope_divisors(std::int32_t rope_size, float base, float factor);

}  // namespace herd
