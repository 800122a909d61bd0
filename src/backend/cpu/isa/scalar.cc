// Plain C++: 16 lanes as an array. Runs anywhere; slow where the machine has no fused multiply-add,
// because the bits must be the same.
#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/half.h"
#include "base/math.h"
#include "base/prefetch.h"

#define INLINE inline
#define INLINE_LAMBDA

namespace herd::cpu {
namespace scalar {

struct F {
  float v[16];
};
struct U {
  std::uint32_t v[16];
};

inline constexpr int kAccumulators = 4;
inline constexpr int kTileRows = 4;
inline constexpr int kFusedRows = 1;
inline constexpr int kPrefetchBytes = 0;

template <class Out, class Fn>
INLINE Out each(Fn fn) {
  Out out;
  for (int i = 0; i < 16; ++i) out.v[i] = fn(i);
  return out;
}

INLINE F load(const float* p) {
  return each<F>([=](int i) INLINE_LAMBDA { return p[i]; });
}
INLINE void store(float* p, const F& a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
INLINE F set1(float x) {
  return each<F>([=](int) INLINE_LAMBDA { return x; });
}
INLINE F zero() {
  return set1(0.0f);
}
INLINE F fma(const F& a, const F& b, const F& c) {
  return each<F>([&](int i) INLINE_LAMBDA { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
INLINE F add(const F& a, const F& b) {
  return each<F>([&](int i) INLINE_LAMBDA { return a.v[i] + b.v[i]; });
}
INLINE F sub(const F& a, const F& b) {
  return each<F>([&](int i) INLINE_LAMBDA { return a.v[i] - b.v[i]; });
}
INLINE F mul(const F& a, const F& b) {
  return each<F>([&](int i) INLINE_LAMBDA { return a.v[i] * b.v[i]; });
}
INLINE F div(const F& a, const F& b) {
  return each<F>([&](int i) INLINE_LAMBDA { return a.v[i] / b.v[i]; });
}
INLINE F max(const F& a, const F& b) {
  return each<F>([&](int i) INLINE_LAMBDA { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
INLINE F if_less(const F& a, const F& b, const F& yes, const F& no) {
  return each<F>([&](int i) INLINE_LAMBDA { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
}

/// Pairs (a, b) of x with pairs (c, s): (fma(a, c, -(b * s)), fma(b, c, a * s)).
INLINE F rotate_pairs(const F& x, const F& cs) {
  return each<F>([&](int i) INLINE_LAMBDA {
    const int c = i / 2 * 2;
    const float other = x.v[i ^ 1] * cs.v[c + 1];
    return __builtin_fmaf(x.v[i], cs.v[c], i % 2 == 0 ? -other : other);
  });
}

INLINE U load_words16(const void* p) {
  U out;
  __builtin_memcpy(out.v, p, 64);
  return out;
}
template <int N>
INLINE U shift_left(const U& a) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] << N; });
}
template <int N>
INLINE U shift_right(const U& a) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] >> N; });
}
INLINE U shift_right_by(const U& a, int n) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] >> n; });
}
INLINE U and_or(const U& a, std::uint32_t mask, std::uint32_t bits) {
  return each<U>([&](int i) INLINE_LAMBDA { return (a.v[i] & mask) | bits; });
}
INLINE U or_and(const U& a, const U& b, std::uint32_t mask) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] | (b.v[i] & mask); });
}
INLINE U add_u(const U& a, std::uint32_t b) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] + b; });
}
INLINE F as_float(const U& a) {
  F out;
  __builtin_memcpy(out.v, a.v, 64);
  return out;
}
INLINE U as_uint(const F& a) {
  U out;
  __builtin_memcpy(out.v, a.v, 64);
  return out;
}

INLINE std::uint16_t half_at(const void* p, int i) {
  std::uint16_t bits;
  __builtin_memcpy(&bits, static_cast<const char*>(p) + 2 * i, 2);
  return bits;
}
INLINE F load_half(const void* p) {
  return each<F>([=](int i) INLINE_LAMBDA { return half_to_float(half_at(p, i)); });
}
INLINE F load_bf16(const void* p) {
  return each<F>([=](int i) INLINE_LAMBDA { return bf16_to_float(half_at(p, i)); });
}
INLINE void store_half(void* p, const F& a) {
  for (int i = 0; i < 16; ++i) {
    const std::uint16_t bits = float_to_half(a.v[i]);
    __builtin_memcpy(static_cast<char*>(p) + 2 * i, &bits, 2);
  }
}
INLINE F load_u8(const void* p) {
  const auto* bytes = static_cast<const unsigned char*>(p);
  return each<F>([=](int i) INLINE_LAMBDA { return static_cast<float>(bytes[i]); });
}
INLINE F load_i8(const void* p) {
  const auto* bytes = static_cast<const signed char*>(p);
  return each<F>([=](int i) INLINE_LAMBDA { return static_cast<float>(bytes[i]); });
}
INLINE F load_i16(const void* p) {
  return each<F>([=](int i) INLINE_LAMBDA {
    return static_cast<float>(static_cast<std::int16_t>(half_at(p, i)));
  });
}
INLINE F load_low_nibbles(const void* p) {
  const auto* bytes = static_cast<const unsigned char*>(p);
  return each<F>([=](int i) INLINE_LAMBDA { return static_cast<float>(bytes[i] & 15); });
}
INLINE F load_high_nibbles(const void* p) {
  const auto* bytes = static_cast<const unsigned char*>(p);
  return each<F>([=](int i) INLINE_LAMBDA { return static_cast<float>(bytes[i] >> 4); });
}
INLINE F lookup_iq4(const U& index) {
  return each<F>(
      [&](int i) INLINE_LAMBDA { return static_cast<float>(quant::kIq4Values[index.v[i] & 15]); });
}
INLINE void prefetch(const void*) {}

struct Nibbles {
  static constexpr bool kByTable = false;  // see avx512.cc
  template <int Offset>
  static F look_up(U index);
};

#include "backend/cpu/kernels/tree_sum_plain.inl"

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::scalar);

}  // namespace scalar

const KernelTable& scalar_table() {
  return scalar::kTable;
}

}  // namespace herd::cpu
