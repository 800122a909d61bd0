// NEON on 64-bit Arm: 16 lanes in four registers. See avx512.cc for why all is in one namespace.
#include <arm_neon.h>

#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace herd::cpu {
namespace neon {

struct F {
  float32x4_t a, b, c, d;
};
struct U {
  uint32x4_t a, b, c, d;
};

inline constexpr int kAccumulators = 6;  // quads, of 32 registers
inline constexpr int kTileRows = 6;
inline constexpr int kFusedRows = 4;
inline constexpr int kPrefetchBytes = 4096;

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
INLINE U shift_right_by(U x, int n) {
  const int32x4_t count = vdupq_n_s32(-n);
  return {vshlq_u32(x.a, count), vshlq_u32(x.b, count), vshlq_u32(x.c, count),
          vshlq_u32(x.d, count)};
}
template <int N>
INLINE U shift_right(U x) {
  if constexpr (N == 0)
    return x;  // the instruction has no shift by 0
  else
    return {vshrq_n_u32(x.a, N), vshrq_n_u32(x.b, N), vshrq_n_u32(x.c, N), vshrq_n_u32(x.d, N)};
}
INLINE U and_or(U x, unsigned mask, unsigned bits) {  // (x & mask) | bits
  const uint32x4_t m = vdupq_n_u32(mask), o = vdupq_n_u32(bits);
  return {vorrq_u32(vandq_u32(x.a, m), o), vorrq_u32(vandq_u32(x.b, m), o),
          vorrq_u32(vandq_u32(x.c, m), o), vorrq_u32(vandq_u32(x.d, m), o)};
}
INLINE U or_and(U x, U y, unsigned mask) {  // x | (y & mask)
  const uint32x4_t m = vdupq_n_u32(mask);
  return {vorrq_u32(x.a, vandq_u32(y.a, m)), vorrq_u32(x.b, vandq_u32(y.b, m)),
          vorrq_u32(x.c, vandq_u32(y.c, m)), vorrq_u32(x.d, vandq_u32(y.d, m))};
}
INLINE U add_u(U x, unsigned y) {
  const uint32x4_t v = vdupq_n_u32(y);
  return {vaddq_u32(x.a, v), vaddq_u32(x.b, v), vaddq_u32(x.c, v), vaddq_u32(x.d, v)};
}
INLINE F as_float(U x) {
  return {vreinterpretq_f32_u32(x.a), vreinterpretq_f32_u32(x.b), vreinterpretq_f32_u32(x.c),
          vreinterpretq_f32_u32(x.d)};
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
/// One byte lookup per lane: the low byte of a lane indexes the table, the others fall outside it.
INLINE float32x4_t lookup4(uint32x4_t index) {
  const int8x16_t table = vld1q_s8(quant::kIq4Values);
  const uint32x4_t low = vorrq_u32(vandq_u32(index, vdupq_n_u32(15)), vdupq_n_u32(0xffffff00u));
  const int32x4_t bytes = vreinterpretq_s32_s8(vqtbl1q_s8(table, vreinterpretq_u8_u32(low)));
  return vcvtq_f32_s32(vshrq_n_s32(vshlq_n_s32(bytes, 24), 24));
}
INLINE F lookup_iq4(U index) {
  return {lookup4(index.a), lookup4(index.b), lookup4(index.c), lookup4(index.d)};
}
INLINE void prefetch(const void* p) {
  __builtin_prefetch(p);
}

struct Nibbles {
  static constexpr bool kByTable = false;  // see avx512.cc
  template <int Offset>
  static F look_up(U index);
};

#include "backend/cpu/kernels/tree_sum_plain.inl"

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::neon);

}  // namespace neon

const KernelTable* neon_table() {
  return &neon::kTable;
}

}  // namespace herd::cpu
