#include "backend/reference/chains.h"

#include <algorithm>

namespace herd::reference {
namespace {

/// Inlined into functions that differ in nothing but the instructions they may use.
__attribute__((always_inline)) inline void chains(const ChainArgs& a, float (&y)[kChains]) {
  std::fill(y, y + kChains, 0.0f);
  for (std::int32_t k0 = 0; k0 < a.n; k0 += kChunk) {
    float acc[kChains] = {};
    for (std::int32_t k = k0; k < std::min(a.n, k0 + kChunk); ++k)
      for (std::int32_t i = 0; i < kChains; ++i)
        acc[i] = __builtin_fmaf(a.w[std::int64_t{i} * a.n + k], a.x[k], acc[i]);
    for (std::int32_t i = 0; i < kChains; ++i) y[i] = y[i] + acc[i];
  }
}

#if defined(__x86_64__)
__attribute__((target("fma"))) void chains_fma(const ChainArgs& args, float (&y)[kChains]) {
  chains(args, y);
}
#endif

}  // namespace

void chains_portable(const ChainArgs& args, float (&y)[kChains]) {
  chains(args, y);
}

ChainsFn chains_for_this_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("fma")) return chains_fma;
#endif
  return chains_portable;
}

}  // namespace herd::reference
