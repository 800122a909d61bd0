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
inline constexpr int kCodedPanels = 1;       // side by side
inline constexpr bool kSignedBytes = false;  // codes are multiplied as unsigned bytes

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
INLINE U or_and(const U& a, const U& b, std::uint32_t mask) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] | (b.v[i] & mask); });
}
INLINE U and_word(const U& a, std::uint32_t mask) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] & mask; });
}
INLINE U add_u(const U& a, std::uint32_t b) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] + b; });
}
INLINE F as_float(const U& a) {
  F out;
  __builtin_memcpy(out.v, a.v, 64);
  return out;
}
INLINE F to_float(const U& a) {  // of signed integers
  return each<F>(
      [&](int i) INLINE_LAMBDA { return static_cast<float>(static_cast<std::int32_t>(a.v[i])); });
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

/// Four bytes of a word, each a function of its place.
template <class Fn>
INLINE std::uint32_t each_byte(Fn fn) {
  std::uint32_t word = 0;
  for (int j = 0; j < 4; ++j) word |= (static_cast<std::uint32_t>(fn(j)) & 0xff) << (8 * j);
  return word;
}
INLINE std::uint32_t byte_of(std::uint32_t word, int j) {
  return (word >> (8 * j)) & 0xff;
}

INLINE U set1_word(std::int32_t x) {
  return each<U>([=](int) INLINE_LAMBDA { return static_cast<std::uint32_t>(x); });
}
INLINE U zero_words() {
  return set1_word(0);
}
INLINE U set1_digits(const void* p) {  // four bytes, in every lane
  std::int32_t x;
  __builtin_memcpy(&x, p, 4);
  return set1_word(x);
}
INLINE void store_words16(void* p, const U& a) {
  __builtin_memcpy(p, a.v, 64);
}
INLINE U add_words(const U& a, const U& b) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] + b.v[i]; });
}
INLINE U max_words(const U& a, const U& b) {
  return each<U>([&](int i) INLINE_LAMBDA { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
INLINE std::uint32_t largest_word(const U& a) {
  std::uint32_t largest = 0;
  for (std::uint32_t v : a.v) largest = v > largest ? v : largest;
  return largest;
}
/// Sums of words i, i + 4, i + 8, i + 12, for i = 0..3.
INLINE void store_quarters_sum(std::int32_t (&to)[4], const U& a) {
  for (int i = 0; i < 4; ++i)
    to[i] = static_cast<std::int32_t>(a.v[i] + a.v[i + 4] + a.v[i + 8] + a.v[i + 12]);
}
INLINE U sub_bytes(const U& a, std::int8_t b) {
  return each<U>([&](int i) INLINE_LAMBDA {
    return each_byte([&](int j) { return byte_of(a.v[i], j) - static_cast<std::uint32_t>(b); });
  });
}
/// Byte j of word i of each four words becomes byte i of word j.
INLINE U transpose_bytes(const U& a) {
  return each<U>([&](int i) INLINE_LAMBDA {
    return each_byte([&](int j) { return byte_of(a.v[i / 4 * 4 + j], i % 4); });
  });
}
/// IQ4's values, raised by 128, of bytes 0..15.
INLINE U lookup_iq4(const U& index) {
  return each<U>([&](int i) INLINE_LAMBDA {
    return each_byte([&](int j) { return quant::kIq4Values[byte_of(index.v[i], j)] + 128; });
  });
}
/// Codes of 8 bits as dot_add() takes them.
INLINE U dot_bytes(const U& codes) {
  return codes;
}
/// Adds to each lane its four codes times its four digits.
template <bool Narrow>
INLINE U dot_add(const U& sum, const U& codes, const U& digits) {
  unsigned char c[64];
  signed char d[64];
  __builtin_memcpy(c, codes.v, 64);
  __builtin_memcpy(d, digits.v, 64);
  return each<U>([&](int i) INLINE_LAMBDA {
    const int at = 4 * i;
    return sum.v[i] + static_cast<std::uint32_t>(c[at] * d[at] + c[at + 1] * d[at + 1] +
                                                 c[at + 2] * d[at + 2] + c[at + 3] * d[at + 3]);
  });
}
template <bool Narrow>
INLINE U dot_end(const U& sum) {
  return sum;
}
INLINE void prefetch(const void*) {}

#include "backend/cpu/kernels/tree_sum_plain.inl"

#include "backend/cpu/kernels/all.inl"

static constexpr KernelTable kTable = make_table(Isa::scalar);

}  // namespace scalar

const KernelTable& scalar_table() {
  return scalar::kTable;
}

}  // namespace herd::cpu
