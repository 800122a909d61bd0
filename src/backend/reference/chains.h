// The one hot loop of the oracle: eight chains of fma side by side, because a chain alone waits for
// each step and a call of the C library's fma costs more than the step.
#pragma once

#include <cstdint>

namespace herd::reference {

inline constexpr std::int32_t kChunk = 256;  // inputs (or keys) per accumulator: docs/numerics.md
inline constexpr std::int32_t kChains = 8;

/// y[i] = matmul's sum (docs/numerics.md) of row i of w [kChains][n] and x [n].
using ChainsFn = void (*)(const float* w, const float* x, std::int32_t n, float (&y)[kChains]);

/// Runs anywhere, by the C library's fma where the baseline has no instruction for it.
void chains_portable(const float* w, const float* x, std::int32_t n, float (&y)[kChains]);
/// The fastest this machine can run; the same bits.
ChainsFn chains_for_this_machine();

}  // namespace herd::reference
