// The one hot loop of the oracle: eight outputs side by side, because a chain of fma alone waits
// for each step and a call of the C library's fma costs more than the step.
#pragma once

#include <cstdint>

namespace herd::reference {

inline constexpr std::int32_t kChunk = 256;  // inputs (or keys) per accumulator: docs/numerics.md
inline constexpr std::int32_t kChains = 8;

/// kChains rows of a matrix of values against one row of inputs.
struct ChainArgs {
  const float* w;  // [kChains][n]
  const float* x;  // [n]
  std::int32_t n;
};

/// y[i] = matmul's sum (docs/numerics.md) for row i.
using ChainsFn = void (*)(const ChainArgs& args, float (&y)[kChains]);

/// Runs anywhere, by the C library's fma where the baseline has no instruction for it.
void chains_portable(const ChainArgs& args, float (&y)[kChains]);
/// The fastest this machine can run; the same bits.
ChainsFn chains_for_this_machine();

}  // namespace herd::reference
