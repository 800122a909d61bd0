#include "backend/reference/chains.h"

#include <algorithm>

namespace herd::reference {
namespace {

/// Inlined into functions that differ in nothing but the instructions they may use.
__attribute__((always_inline)) inline void chains(const ChainArgs& a, float (&y)[kChains]) {
  const std::int32_t groups = (a.n + a.group - 1) / a.group;
  std::fill(y, y + kChains, 0.0f);
  for (std::int32_t g = 0; g < groups; ++g) {
    float acc[kChains] = {};
    for (std::int32_t k = g * a.group; k < std::min(a.n, (g + 1) * a.group); ++k)
      for (std::int32_t i = 0; i < kChains; ++i)
        acc[i] = __builtin_fmaf(a.w[std::int64_t{i} * a.n + k], a.x[k], acc[i]);
    for (std::int32_t i = 0; i < kChains; ++i) {
      y[i] = a.scales == nullptr ? y[i] + acc[i]
                                 : __builtin_fmaf(a.scales[i * groups + g], acc[i], y[i]);
      if (a.mins != nullptr) y[i] = __builtin_fmaf(a.mins[i * groups + g], a.sums[g], y[i]);
    }
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
