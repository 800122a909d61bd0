// AVX-512 (F, BW, DQ, VL, VNNI): 16 lanes in one register. Everything lives in this file's
// namespace, so that no code compiled with these flags can be picked by the linker for another
// file.
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
inline constexpr int kCodedPanels = 2;       // side by side
inline constexpr bool kSignedBytes = false;  // codes are multiplied as unsigned bytes

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
INLINE U or_and(U a, U b, unsigned mask) {  // a | (b & mask)
  return {_mm512_ternarylogic_epi32(b.v, _mm512_set1_epi32(static_cast<int>(mask)), a.v, 0xEA)};
}
INLINE U and_word(U a, unsigned mask) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi32(static_cast<int>(mask)))};
}
INLINE U add_u(U a, unsigned b) {
  return {_mm512_add_epi32(a.v, _mm512_set1_epi32(static_cast<int>(b)))};
}
INLINE F as_float(U a) {
  return {_mm512_castsi512_ps(a.v)};
}
INLINE F to_float(U a) {  // of signed integers
  return {_mm512_cvtepi32_ps(a.v)};
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

INLINE U zero_words() {
  return {_mm512_setzero_si512()};
}
INLINE U set1_word(std::int32_t x) {
  return {_mm512_set1_epi32(x)};
}
INLINE U set1_digits(const void* p) {  // four bytes, in every lane
  std::int32_t x;
  __builtin_memcpy(&x, p, 4);
  return {_mm512_set1_epi32(x)};
}
INLINE void store_words16(void* p, U a) {
  _mm512_storeu_si512(p, a.v);
}
INLINE U add_words(U a, U b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
INLINE U max_words(U a, U b) {
  return {_mm512_max_epu32(a.v, b.v)};
}
INLINE std::uint32_t largest_word(U a) {
  return _mm512_reduce_max_epu32(a.v);
}
/// Sums of words i, i + 4, i + 8, i + 12, for i = 0..3.
INLINE void store_quarters_sum(std::int32_t (&to)[4], U a) {
  const __m256i two =
      _mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
}
INLINE U sub_bytes(U a, std::int8_t b) {
  return {_mm512_sub_epi8(a.v, _mm512_set1_epi8(b))};
}
/// Byte j of word i of each four words becomes byte i of word j.
INLINE U transpose_bytes(U a) {
  return {_mm512_shuffle_epi8(a.v, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2,
                                                                        6, 10, 14, 3, 7, 11, 15)))};
}
/// IQ4's values, raised by 128, of bytes 0..15.
INLINE U lookup_iq4(U index) {
  const __m128i table = _mm_xor_si128(load_bytes16(quant::kIq4Values), _mm_set1_epi8(-128));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index.v)};
}
/// Codes of 8 bits as dot_add() takes them.
INLINE U dot_bytes(U codes) {
  return codes;
}
/// Adds to each lane its four codes times its four digits. `Narrow`: codes of at most 6 bits and no
/// more than fit 16 bits a pair: sums in a form that dot_end() turns into words.
template <bool Narrow>
INLINE U dot_add(U sum, U codes, U digits) {
  return {_mm512_dpbusd_epi32(sum.v, codes.v, digits.v)};
}
template <bool Narrow>
INLINE U dot_end(U sum) {
  return sum;
}
INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
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
                       __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
  return present ? &avx512::kTable : nullptr;
}

}  // namespace herd::cpu
