// AVX2 with FMA and F16C: 16 lanes in two registers. See avx512.cc for why all is in one namespace.
#include <immintrin.h>

#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace herd::cpu {
namespace avx2 {

struct F {
  __m256 a, b;
};
struct U {
  __m256i a, b;
};

inline constexpr int kAccumulators = 6;  // pairs, of 16 registers
inline constexpr int kTileRows = 6;
inline constexpr int kFusedRows = 4;
inline constexpr int kPrefetchBytes = 4096;

INLINE __m256i u32(unsigned x) {
  return _mm256_set1_epi32(static_cast<int>(x));
}
INLINE __m128i load_bytes16(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

INLINE F load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
INLINE F set1(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
INLINE F zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE F fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE F add(F x, F y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
INLINE F sub(F x, F y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
INLINE F mul(F x, F y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
INLINE F div(F x, F y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
INLINE F max(F x, F y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
INLINE F if_less(F x, F y, F yes, F no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}

/// Pairs (a, b) of x with pairs (c, s): (fma(a, c, -(b * s)), fma(b, c, a * s)).
INLINE __m256 rotate_pairs8(__m256 x, __m256 cs) {
  const __m256 other = _mm256_mul_ps(_mm256_permute_ps(x, 0xB1), _mm256_movehdup_ps(cs));
  return _mm256_fmaddsub_ps(x, _mm256_moveldup_ps(cs), other);
}
INLINE F rotate_pairs(F x, F cs) {
  return {rotate_pairs8(x.a, cs.a), rotate_pairs8(x.b, cs.b)};
}

INLINE U load_words16(const void* p) {
  const __m256i* at = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
template <int N>
INLINE U shift_left(U x) {
  return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)};
}
template <int N>
INLINE U shift_right(U x) {
  return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)};
}
INLINE U shift_right_by(U x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return {_mm256_srl_epi32(x.a, count), _mm256_srl_epi32(x.b, count)};
}
INLINE U and_or(U x, unsigned mask, unsigned bits) {  // (x & mask) | bits
  return {_mm256_or_si256(_mm256_and_si256(x.a, u32(mask)), u32(bits)),
          _mm256_or_si256(_mm256_and_si256(x.b, u32(mask)), u32(bits))};
}
INLINE U or_and(U x, U y, unsigned mask) {  // x | (y & mask)
  return {_mm256_or_si256(x.a, _mm256_and_si256(y.a, u32(mask))),
          _mm256_or_si256(x.b, _mm256_and_si256(y.b, u32(mask)))};
}
INLINE U add_u(U x, unsigned y) {
  return {_mm256_add_epi32(x.a, u32(y)), _mm256_add_epi32(x.b, u32(y))};
}
INLINE F as_float(U x) {
  return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
INLINE U as_uint(F x) {
  return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}

INLINE F load_half(const void* p) {
  const __m128i* at = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
INLINE void store_half(void* p, F x) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  __m128i* at = static_cast<__m128i*>(p);
  _mm_storeu_si128(at, _mm256_cvtps_ph(x.a, nearest));
  _mm_storeu_si128(at + 1, _mm256_cvtps_ph(x.b, nearest));
}
INLINE __m256 bf16_8(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
INLINE F load_bf16(const void* p) {
  const __m128i* at = static_cast<const __m128i*>(p);
  return {bf16_8(_mm_loadu_si128(at)), bf16_8(_mm_loadu_si128(at + 1))};
}
INLINE F from_u8(__m128i bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
INLINE F load_u8(const void* p) {
  return from_u8(load_bytes16(p));
}
INLINE F load_i8(const void* p) {
  const __m128i bytes = load_bytes16(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
INLINE F load_i16(const void* p) {
  const __m128i* at = static_cast<const __m128i*>(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(at))),
          _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(at + 1)))};
}
INLINE F load_low_nibbles(const void* p) {
  return from_u8(_mm_and_si128(load_bytes16(p), _mm_set1_epi8(15)));
}
INLINE F load_high_nibbles(const void* p) {
  return from_u8(_mm_and_si128(_mm_srli_epi16(load_bytes16(p), 4), _mm_set1_epi8(15)));
}
/// permutevar8x32 looks at the low 3 bits; bit 3, moved to the sign, picks the half of the table.
INLINE __m256 lookup8(__m256i index) {
  const __m256 low = _mm256_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10);
  const __m256 high = _mm256_setr_ps(1, 13, 25, 38, 53, 69, 89, 113);
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                          _mm256_permutevar8x32_ps(high, index),
                          _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
INLINE F lookup_iq4(U index) {
  return {lookup8(index.a), lookup8(index.b)};
}
INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

struct Nibbles {
  static constexpr bool kByTable = false;  // see avx512.cc
  template <int Offset>
  static F look_up(U index);
};

#include "backend/cpu/kernels/tree_sum_avx.inl"
INLINE float tree_sum(F x) {
  return tree_sum8(_mm256_add_ps(x.a, x.b));
}

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::avx2);

}  // namespace avx2

const KernelTable* avx2_table() {
  const bool present = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                       __builtin_cpu_supports("f16c");
  return present ? &avx2::kTable : nullptr;
}

}  // namespace herd::cpu
