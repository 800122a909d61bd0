// NEON on 64-bit Arm, as every one has it.
#include <arm_neon.h>

#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace herd::cpu {
namespace neon {

#include "backend/cpu/isa/lanes_neon.inl"

// No pair of products overflows 16 bits: 128 * 64 * 2 = 2^14.
INLINE int32x4_t dot_add4(int32x4_t sum, int8x16_t codes, int8x16_t digits) {
  const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(digits));
  return vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(codes, digits)));
}

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::neon);

}  // namespace neon

const KernelTable* neon_table() {
  return &neon::kTable;
}

}  // namespace herd::cpu
