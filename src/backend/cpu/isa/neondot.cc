// NEON with the dot product instructions (Armv8.2 and later, all of Apple's).
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace herd::cpu {
namespace neondot {

#include "backend/cpu/isa/lanes_neon.inl"

INLINE int32x4_t dot_add4(int32x4_t sum, int8x16_t codes, int8x16_t digits) {
  return vdotq_s32(sum, codes, digits);
}

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::neondot);

}  // namespace neondot

const KernelTable* neondot_table() {
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if ((getauxval(AT_HWCAP) & kDotProduct) == 0) return nullptr;
#endif
  return &neondot::kTable;
}

}  // namespace herd::cpu
