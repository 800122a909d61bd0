// 16 lanes in four NEON registers, for the tables that differ in how they multiply bytes. Included
// inside the namespace of each: see avx512.cc for why.

struct F {
  float32x4_t a, b, c, d;
};
struct U {
  uint32x4_t a, b, c, d;
};

inline constexpr int kAccumulators = 6;  // quads, of 32 registers
inline constexpr int kTileRows = 6;
inline constexpr int kFusedRows = 4;
inline constexpr int kCodedPanels = 1;      // side by side
inline constexpr bool kSignedBytes = true;  // codes are multiplied as signed bytes

INLINE F load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
INLINE void store(float* p, F x) {
  vst1q_f32(p, x.a), vst1q_f32(p + 4, x.b), vst1q_f32(p + 8, x.c), vst1q_f32(p + 12, x.d);
}
INLINE F set1(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
INLINE F zero() {
  return set1(0.0f);
}
INLINE F fma(F x, F y, F z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
          vfmaq_f32(z.d, x.d, y.d)};
}
INLINE F add(F x, F y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
INLINE F sub(F x, F y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
INLINE F mul(F x, F y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
INLINE F div(F x, F y) {
  return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
INLINE F max(F x, F y) {
  return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b), vmaxq_f32(x.c, y.c), vmaxq_f32(x.d, y.d)};
}
INLINE F if_less(F x, F y, F yes, F no) {
  return {vbslq_f32(vcltq_f32(x.a, y.a), yes.a, no.a), vbslq_f32(vcltq_f32(x.b, y.b), yes.b, no.b),
          vbslq_f32(vcltq_f32(x.c, y.c), yes.c, no.c), vbslq_f32(vcltq_f32(x.d, y.d), yes.d, no.d)};
}

/// Pairs (a, b) of x with pairs (c, s): (fma(a, c, -(b * s)), fma(b, c, a * s)).
INLINE float32x4_t rotate_pairs4(float32x4_t x, float32x4_t cs) {
  const uint32x4_t signs = {0x80000000u, 0, 0x80000000u, 0};
  const float32x4_t other = vmulq_f32(vrev64q_f32(x), vtrn2q_f32(cs, cs));
  return vfmaq_f32(vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(other), signs)), x,
                   vtrn1q_f32(cs, cs));
}
INLINE F rotate_pairs(F x, F cs) {
  return {rotate_pairs4(x.a, cs.a), rotate_pairs4(x.b, cs.b), rotate_pairs4(x.c, cs.c),
          rotate_pairs4(x.d, cs.d)};
}

INLINE U load_words16(const void* p) {
  const auto* w = static_cast<const uint32_t*>(p);
  return {vld1q_u32(w), vld1q_u32(w + 4), vld1q_u32(w + 8), vld1q_u32(w + 12)};
}
template <int N>
INLINE U shift_left(U x) {
  return {vshlq_n_u32(x.a, N), vshlq_n_u32(x.b, N), vshlq_n_u32(x.c, N), vshlq_n_u32(x.d, N)};
}
template <int N>
INLINE U shift_right(U x) {
  if constexpr (N == 0)
    return x;  // the instruction has no shift by 0
  else
    return {vshrq_n_u32(x.a, N), vshrq_n_u32(x.b, N), vshrq_n_u32(x.c, N), vshrq_n_u32(x.d, N)};
}
INLINE U or_and(U x, U y, unsigned mask) {  // x | (y & mask)
  const uint32x4_t m = vdupq_n_u32(mask);
  return {vorrq_u32(x.a, vandq_u32(y.a, m)), vorrq_u32(x.b, vandq_u32(y.b, m)),
          vorrq_u32(x.c, vandq_u32(y.c, m)), vorrq_u32(x.d, vandq_u32(y.d, m))};
}
INLINE U and_word(U x, unsigned mask) {
  const uint32x4_t m = vdupq_n_u32(mask);
  return {vandq_u32(x.a, m), vandq_u32(x.b, m), vandq_u32(x.c, m), vandq_u32(x.d, m)};
}
INLINE U add_u(U x, unsigned y) {
  const uint32x4_t v = vdupq_n_u32(y);
  return {vaddq_u32(x.a, v), vaddq_u32(x.b, v), vaddq_u32(x.c, v), vaddq_u32(x.d, v)};
}
INLINE F as_float(U x) {
  return {vreinterpretq_f32_u32(x.a), vreinterpretq_f32_u32(x.b), vreinterpretq_f32_u32(x.c),
          vreinterpretq_f32_u32(x.d)};
}
INLINE float32x4_t float4(uint32x4_t x) {
  return vcvtq_f32_s32(vreinterpretq_s32_u32(x));
}
INLINE F to_float(U x) {  // of signed integers
  return {float4(x.a), float4(x.b), float4(x.c), float4(x.d)};
}
INLINE U as_uint(F x) {
  return {vreinterpretq_u32_f32(x.a), vreinterpretq_u32_f32(x.b), vreinterpretq_u32_f32(x.c),
          vreinterpretq_u32_f32(x.d)};
}

INLINE float32x4_t half4(const uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
INLINE F load_half(const void* p) {
  const auto* h = static_cast<const uint16_t*>(p);
  return {half4(h), half4(h + 4), half4(h + 8), half4(h + 12)};
}
INLINE void store_half(void* p, F x) {
  auto* h = static_cast<uint16_t*>(p);
  vst1_u16(h, vreinterpret_u16_f16(vcvt_f16_f32(x.a)));
  vst1_u16(h + 4, vreinterpret_u16_f16(vcvt_f16_f32(x.b)));
  vst1_u16(h + 8, vreinterpret_u16_f16(vcvt_f16_f32(x.c)));
  vst1_u16(h + 12, vreinterpret_u16_f16(vcvt_f16_f32(x.d)));
}
INLINE float32x4_t bf16_4(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
INLINE F load_bf16(const void* p) {
  const auto* h = static_cast<const uint16_t*>(p);
  return {bf16_4(h), bf16_4(h + 4), bf16_4(h + 8), bf16_4(h + 12)};
}
INLINE F from_u8(uint8x16_t bytes) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
          vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))};
}
INLINE F load_u8(const void* p) {
  return from_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
}
INLINE F load_i8(const void* p) {
  const int8x16_t bytes = vld1q_s8(static_cast<const int8_t*>(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
          vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))};
}
INLINE float32x4_t i16_4(const int16_t* p) {
  return vcvtq_f32_s32(vmovl_s16(vld1_s16(p)));
}
INLINE F load_i16(const void* p) {
  const auto* w = static_cast<const int16_t*>(p);
  return {i16_4(w), i16_4(w + 4), i16_4(w + 8), i16_4(w + 12)};
}
INLINE F load_low_nibbles(const void* p) {
  return from_u8(vandq_u8(vld1q_u8(static_cast<const uint8_t*>(p)), vdupq_n_u8(15)));
}
INLINE F load_high_nibbles(const void* p) {
  return from_u8(vshrq_n_u8(vld1q_u8(static_cast<const uint8_t*>(p)), 4));
}

/// Each of the four registers of one or two operands by a function of it.
template <class Fn>
INLINE U each(U x, Fn fn) {
  return {fn(x.a), fn(x.b), fn(x.c), fn(x.d)};
}
template <class Fn>
INLINE U each(U x, U y, Fn fn) {
  return {fn(x.a, y.a), fn(x.b, y.b), fn(x.c, y.c), fn(x.d, y.d)};
}
INLINE U set1_word(std::int32_t x) {
  const uint32x4_t v = vreinterpretq_u32_s32(vdupq_n_s32(x));
  return {v, v, v, v};
}
INLINE U zero_words() {
  return set1_word(0);
}
INLINE U set1_digits(const void* p) {  // four bytes, in every lane
  std::int32_t x;
  __builtin_memcpy(&x, p, 4);
  return set1_word(x);
}
INLINE void store_words16(void* p, U x) {
  auto* w = static_cast<uint32_t*>(p);
  vst1q_u32(w, x.a), vst1q_u32(w + 4, x.b), vst1q_u32(w + 8, x.c), vst1q_u32(w + 12, x.d);
}
INLINE U add_words(U x, U y) {
  return each(x, y, [](uint32x4_t a, uint32x4_t b) { return vaddq_u32(a, b); });
}
INLINE U max_words(U x, U y) {
  return each(x, y, [](uint32x4_t a, uint32x4_t b) { return vmaxq_u32(a, b); });
}
INLINE std::uint32_t largest_word(U x) {
  return vmaxvq_u32(vmaxq_u32(vmaxq_u32(x.a, x.b), vmaxq_u32(x.c, x.d)));
}
/// Sums of words i, i + 4, i + 8, i + 12, for i = 0..3.
INLINE void store_quarters_sum(std::int32_t (&to)[4], U x) {
  vst1q_s32(to, vreinterpretq_s32_u32(vaddq_u32(vaddq_u32(x.a, x.b), vaddq_u32(x.c, x.d))));
}
INLINE U sub_bytes(U x, std::int8_t y) {
  const uint8x16_t v = vreinterpretq_u8_s8(vdupq_n_s8(y));
  return each(
      x, [=](uint32x4_t a) { return vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(a), v)); });
}
/// Bytes of `table` at those of `index`, which are below 16.
INLINE U shuffle_bytes(uint8x16_t table, U index) {
  return each(index, [=](uint32x4_t i) {
    return vreinterpretq_u32_u8(vqtbl1q_u8(table, vreinterpretq_u8_u32(i)));
  });
}
/// Byte j of word i of each four words becomes byte i of word j.
INLINE U transpose_bytes(U x) {
  const uint8x16_t order = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  return each(x, [=](uint32x4_t a) {
    return vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(a), order));
  });
}
/// Codes of 8 bits as dot_add() takes them: 128 less.
INLINE U dot_bytes(U codes) {
  return each(codes, [](uint32x4_t a) { return veorq_u32(a, vdupq_n_u32(0x80808080u)); });
}
/// IQ4's values, raised by 128, of bytes 0..15.
INLINE U lookup_iq4(U index) {
  return dot_bytes(shuffle_bytes(vreinterpretq_u8_s8(vld1q_s8(quant::kIq4Values)), index));
}

/// Of one register, in the including file.
INLINE int32x4_t dot_add4(int32x4_t sum, int8x16_t codes, int8x16_t digits);
/// Adds to each lane its four codes times its four digits.
template <bool Narrow>
INLINE U dot_add(U sum, U codes, U digits) {
  const auto one = [](uint32x4_t s, uint32x4_t c, uint32x4_t d) {
    return vreinterpretq_u32_s32(
        dot_add4(vreinterpretq_s32_u32(s), vreinterpretq_s8_u32(c), vreinterpretq_s8_u32(d)));
  };
  return {one(sum.a, codes.a, digits.a), one(sum.b, codes.b, digits.b),
          one(sum.c, codes.c, digits.c), one(sum.d, codes.d, digits.d)};
}
template <bool Narrow>
INLINE U dot_end(U sum) {
  return sum;
}
INLINE void prefetch(const void* p) {
  __builtin_prefetch(p);
}

#include "backend/cpu/kernels/tree_sum_plain.inl"
