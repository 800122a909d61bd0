// 16 lanes in two AVX2 registers, for the tables that differ in how they multiply bytes. Included
// inside the namespace of each: see avx512.cc for why.

struct F {
  __m256 a, b;
};
struct U {
  __m256i a, b;
};

inline constexpr int kAccumulators = 6;  // pairs, of 16 registers
inline constexpr int kTileRows = 6;
inline constexpr int kFusedRows = 4;
inline constexpr int kCodedPanels = 1;       // side by side
inline constexpr bool kSignedBytes = false;  // codes are multiplied as unsigned bytes

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
INLINE U or_and(U x, U y, unsigned mask) {  // x | (y & mask)
  return {_mm256_or_si256(x.a, _mm256_and_si256(y.a, u32(mask))),
          _mm256_or_si256(x.b, _mm256_and_si256(y.b, u32(mask)))};
}
INLINE U and_word(U x, unsigned mask) {
  return {_mm256_and_si256(x.a, u32(mask)), _mm256_and_si256(x.b, u32(mask))};
}
INLINE U add_u(U x, unsigned y) {
  return {_mm256_add_epi32(x.a, u32(y)), _mm256_add_epi32(x.b, u32(y))};
}
INLINE F as_float(U x) {
  return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
INLINE F to_float(U x) {  // of signed integers
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
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

INLINE U zero_words() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
INLINE U set1_word(std::int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
INLINE U set1_digits(const void* p) {  // four bytes, in every lane
  std::int32_t x;
  __builtin_memcpy(&x, p, 4);
  return set1_word(x);
}
INLINE void store_words16(void* p, U x) {
  __m256i* at = static_cast<__m256i*>(p);
  _mm256_storeu_si256(at, x.a);
  _mm256_storeu_si256(at + 1, x.b);
}
INLINE U add_words(U x, U y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
INLINE U max_words(U x, U y) {
  return {_mm256_max_epu32(x.a, y.a), _mm256_max_epu32(x.b, y.b)};
}
INLINE std::uint32_t largest_word(U x) {
  const __m256i eight = _mm256_max_epu32(x.a, x.b);
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4E));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xB1));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(m));
}
/// Sums of words i, i + 4, i + 8, i + 12, for i = 0..3.
INLINE void store_quarters_sum(std::int32_t (&to)[4], U x) {
  const __m256i two = _mm256_add_epi32(x.a, x.b);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
}
INLINE U sub_bytes(U x, std::int8_t y) {
  return {_mm256_sub_epi8(x.a, _mm256_set1_epi8(y)), _mm256_sub_epi8(x.b, _mm256_set1_epi8(y))};
}
/// In both halves of 16 bytes.
INLINE U shuffle_bytes(__m128i table, U index) {
  const __m256i both = _mm256_broadcastsi128_si256(table);
  return {_mm256_shuffle_epi8(both, index.a), _mm256_shuffle_epi8(both, index.b)};
}
/// Byte j of word i of each four words becomes byte i of word j.
INLINE U transpose_bytes(U x) {
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return {_mm256_shuffle_epi8(x.a, order), _mm256_shuffle_epi8(x.b, order)};
}
/// IQ4's values, raised by 128, of bytes 0..15.
INLINE U lookup_iq4(U index) {
  return shuffle_bytes(_mm_xor_si128(load_bytes16(quant::kIq4Values), _mm_set1_epi8(-128)), index);
}
/// Codes of 8 bits as dot_add() takes them.
INLINE U dot_bytes(U codes) {
  return codes;
}

INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

#include "backend/cpu/kernels/tree_sum_avx.inl"
INLINE float tree_sum(F x) {
  return tree_sum8(_mm256_add_ps(x.a, x.b));
}
