// AVX2 with FMA and F16C.
#include <immintrin.h>

#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace herd::cpu {
namespace avx2 {

#include "backend/cpu/isa/lanes_avx.inl"

/// Adds to each lane its four codes times its four digits. `Narrow`: codes of at most 6 bits and no
/// more than fit 16 bits a pair, which are summed as pairs until dot_end(). No pair saturates:
/// digits are at most 64 and 255 * 64 * 2 < 2^15.
template <bool Narrow>
INLINE __m256i dot_add8(__m256i sum, __m256i codes, __m256i digits) {
  const __m256i pairs = _mm256_maddubs_epi16(codes, digits);
  if constexpr (Narrow)
    sum = _mm256_add_epi16(sum, pairs);
  else
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  asm volatile(""
               : "+x"(sum));  // compilers move all products before all sums, which takes registers
  return sum;
}
template <bool Narrow>
INLINE U dot_add(U sum, U codes, U digits) {
  return {dot_add8<Narrow>(sum.a, codes.a, digits.a), dot_add8<Narrow>(sum.b, codes.b, digits.b)};
}
template <bool Narrow>
INLINE U dot_end(U sum) {
  if constexpr (!Narrow) return sum;
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(sum.a, ones), _mm256_madd_epi16(sum.b, ones)};
}

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::avx2);

}  // namespace avx2

const KernelTable* avx2_table() {
  // Every processor with AVX2 has F16C, which older compilers cannot ask for.
  const bool present = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return present ? &avx2::kTable : nullptr;
}

}  // namespace herd::cpu
