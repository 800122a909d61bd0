// AVX2 with AVX-VNNI: products of bytes summed to words by one instruction.
#include <cpuid.h>
#include <immintrin.h>

#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace herd::cpu {
namespace avxvnni {

#include "backend/cpu/isa/lanes_avx.inl"

/// Adds to each lane its four codes times its four digits.
template <bool Narrow>
INLINE U dot_add(U sum, U codes, U digits) {
  return {_mm256_dpbusd_avx_epi32(sum.a, codes.a, digits.a),
          _mm256_dpbusd_avx_epi32(sum.b, codes.b, digits.b)};
}
template <bool Narrow>
INLINE U dot_end(U sum) {
  return sum;
}

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::avxvnni);

}  // namespace avxvnni

const KernelTable* avxvnni_table() {
  unsigned a = 0, b = 0, c = 0, d = 0;  // __builtin_cpu_supports knows it in new compilers only
  const bool vnni = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
  return vnni && avx2_table() != nullptr ? &avxvnni::kTable : nullptr;
}

}  // namespace herd::cpu
