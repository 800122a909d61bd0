#include "backend/reference/chains.h"

#include <algorithm>

namespace herd::reference {
namespace {

/// Inlined into functions that differ in nothing but the instructions they may use.
__attribute__((always_inline)) inline void chains(const float* w, const float* x, std::int32_t n,
                                                  float (&y)[kChains]) {
  for (std::int32_t k0 = 0; k0 < n; k0 += kChunk) {
    float acc[kChains] = {};
    for (std::int32_t k = k0; k < std::min(n, k0 + kChunk); ++k)
      for (std::int32_t i = 0; i < kChains; ++i)
        acc[i] = __builtin_fmaf(w[std::int64_t{i} * n + k], x[k], acc[i]);
    for (std::int32_t i = 0; i < kChains; ++i) y[i] = k0 == 0 ? acc[i] : y[i] + acc[i];
  }
}

#if defined(__x86_64__)
__attribute__((target("fma"))) void chains_fma(const float* w, const float* x, std::int32_t n,
                                               float (&y)[kChains]) {
  chains(w, x, n, y);
}
#endif

}  // namespace

void chains_portable(const float* w, const float* x, std::int32_t n, float (&y)[kChains]) {
  chains(w, x, n, y);
}

ChainsFn chains_for_this_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("fma")) return chains_fma;
#endif
  return chains_portable;
}

}  // namespace herd::reference
