// AVX-512 (F, BW, DQ, VL): 16 lanes in one register. Everything lives in this file's namespace, so
// that no code compiled with these flags can be picked by the linker for another file.
#include <immintrin.h>

#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace herd::cpu {
namespace avx512 {

struct F {
  __m512 v;
};
struct U {
  __m512i v;
};

inline constexpr int kAccumulators = 24;  // of 32 registers
inline constexpr int kTileRows = 12;
inline constexpr int kFusedRows = 32;
inline constexpr int kPrefetchBytes = 4096;

INLINE F load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
INLINE void store(float* p, F a) {
  _mm512_storeu_ps(p, a.v);
}
INLINE F set1(float x) {
  return {_mm512_set1_ps(x)};
}
INLINE F zero() {
  return {_mm512_setzero_ps()};
}
INLINE F fma(F a, F b, F c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
INLINE F add(F a, F b) {
  return {_mm512_add_ps(a.v, b.v)};
}
INLINE F sub(F a, F b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
INLINE F mul(F a, F b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
INLINE F div(F a, F b) {
  return {_mm512_div_ps(a.v, b.v)};
}
INLINE F max(F a, F b) {
  return {_mm512_max_ps(a.v, b.v)};
}
INLINE F if_less(F a, F b, F yes, F no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}

/// Pairs (a, b) of x with pairs (c, s): (fma(a, c, -(b * s)), fma(b, c, a * s)).
INLINE F rotate_pairs(F x, F cs) {
  const __m512 other = _mm512_mul_ps(_mm512_permute_ps(x.v, 0xB1), _mm512_movehdup_ps(cs.v));
  return {_mm512_fmaddsub_ps(x.v, _mm512_moveldup_ps(cs.v), other)};
}

INLINE U load_words16(const void* p) {
  return {_mm512_loadu_si512(p)};
}
template <int N>
INLINE U shift_left(U a) {
  return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
INLINE U shift_right(U a) {
  return {_mm512_srli_epi32(a.v, N)};
}
INLINE U shift_right_by(U a, int n) {
  return {_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(n))};
}
INLINE U and_or(U a, unsigned mask, unsigned bits) {  // (a & mask) | bits
  return {_mm512_ternarylogic_epi32(a.v, _mm512_set1_epi32(static_cast<int>(mask)),
                                    _mm512_set1_epi32(static_cast<int>(bits)), 0xEA)};
}
INLINE U or_and(U a, U b, unsigned mask) {  // a | (b & mask)
  return {_mm512_ternarylogic_epi32(b.v, _mm512_set1_epi32(static_cast<int>(mask)), a.v, 0xEA)};
}
INLINE U add_u(U a, unsigned b) {
  return {_mm512_add_epi32(a.v, _mm512_set1_epi32(static_cast<int>(b)))};
}
INLINE F as_float(U a) {
  return {_mm512_castsi512_ps(a.v)};
}
INLINE U as_uint(F a) {
  return {_mm512_castps_si512(a.v)};
}

INLINE __m128i load_bytes16(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
INLINE F load_half(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
INLINE void store_half(void* p, F a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE F load_bf16(const void* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16))};
}
INLINE F load_u8(const void* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_bytes16(p)))};
}
INLINE F load_i8(const void* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_bytes16(p)))};
}
INLINE F load_i16(const void* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))))};
}
INLINE F load_low_nibbles(const void* p) {
  return {
      _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(load_bytes16(p), _mm_set1_epi8(15))))};
}
INLINE F load_high_nibbles(const void* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(load_bytes16(p), 4), _mm_set1_epi8(15))))};
}
/// IQ4's value of the low 4 bits of each lane.
INLINE F lookup_iq4(U index) {
  const __m512 table =
      _mm512_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
  return {_mm512_permutexvar_ps(index.v, table)};
}
/// Four-bit codes by a table: the permutation reads the low 4 bits of an index, so a shift is all
/// the unpacking there is.
struct Nibbles {
  static constexpr bool kByTable = true;
  template <int Offset>
  static INLINE F look_up(U index) {
    const __m512 table =
        _mm512_setr_ps(0 - Offset, 1 - Offset, 2 - Offset, 3 - Offset, 4 - Offset, 5 - Offset,
                       6 - Offset, 7 - Offset, 8 - Offset, 9 - Offset, 10 - Offset, 11 - Offset,
                       12 - Offset, 13 - Offset, 14 - Offset, 15 - Offset);
    return {_mm512_permutexvar_ps(index.v, table)};
  }
};
INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

#include "backend/cpu/kernels/tree_sum_avx.inl"
INLINE float tree_sum(F x) {
  return tree_sum8(_mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1)));
}

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::avx512);

}  // namespace avx512

const KernelTable* avx512_table() {
  const bool present = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return present ? &avx512::kTable : nullptr;
}

}  // namespace herd::cpu
