// Device layouts of weights and their way into matrix-unit fragments.
//
// A matrix is cut into subtiles of 16 outputs by tile_k inputs; those of the same outputs stand one
// after the other, and outputs are filled up to a multiple of 64. Within a subtile every lane of a
// warp finds the codes of its own A fragments (m16n8k16: rows r = lane / 4 and r + 8, inputs 2c, 2c
// + 1, 2c + 8, 2c + 9 with c = lane % 4) in its own 16-byte words, so one coalesced load feeds
// several matrix instructions. Outputs past N and inputs past K hold zero codes and zero scales.
//
// How a code becomes a half: its bits are dropped into the mantissa of a half of known exponent
// (1024 + q, or 1024 + 16 q for the upper nibbles), the bias is taken off exactly, then the scale
// is applied with one rounding.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "quant/types.h"

namespace herd::cuda {

enum class Layout { F16, Q8, Q4, Q4M, Q5, Q5M, K4, K5, K6, K2, K8 };

/// Layouts are fewer than types: rare types share a wider one that holds them exactly.
constexpr Layout layout_of(quant::Type type) {
  using quant::Type;
  switch (type) {
    case Type::Q8_0:
    case Type::IQ4_NL: return Layout::Q8;
    case Type::Q4_0: return Layout::Q4;
    case Type::Q4_1: return Layout::Q4M;
    case Type::Q5_0: return Layout::Q5;
    case Type::Q5_1: return Layout::Q5M;
    case Type::Q4_K: return Layout::K4;
    case Type::Q5_K: return Layout::K5;
    case Type::Q3_K:
    case Type::Q6_K: return Layout::K6;
    case Type::Q2_K: return Layout::K2;
    case Type::IQ4_XS: return Layout::K8;
    default: return Layout::F16;
  }
}
constexpr bool is_k(Layout l) {
  return l == Layout::K4 || l == Layout::K5 || l == Layout::K6 || l == Layout::K2 ||
         l == Layout::K8;
}
constexpr int tile_k(Layout l) {
  return is_k(l) ? 256 : 64;
}
/// Bytes of one subtile: 16 outputs by tile_k inputs. Always a multiple of 32.
constexpr int subtile_bytes(Layout l) {
  switch (l) {
    case Layout::F16: return 2048;
    case Layout::Q8: return 1024 + 64;
    case Layout::Q4: return 512 + 64;
    case Layout::Q4M: return 512 + 128;
    case Layout::Q5: return 512 + 128 + 64;
    case Layout::Q5M: return 512 + 128 + 128;
    case Layout::K4: return 2048 + 512 + 32;
    case Layout::K5: return 2048 + 512 + 512 + 32;
    case Layout::K6: return 2048 + 1024 + 256 + 32;
    case Layout::K2: return 2048 + 1024 + 32;
    case Layout::K8: return 4096 + 128 + 32;
  }
  return 0;
}

#ifdef __CUDACC__

using Bits = std::uint32_t;  // two halves

__device__ __forceinline__ __half2 as_half2(Bits bits) {
  __half2 h;
  memcpy(&h, &bits, 4);
  return h;
}
__device__ __forceinline__ Bits as_bits(__half2 h) {
  Bits bits;
  memcpy(&bits, &h, 4);
  return bits;
}
__device__ __forceinline__ __half2 twice(std::uint16_t bits) {
  return as_half2(bits | std::uint32_t{bits} << 16);
}
/// (a & mask) | bits in one instruction.
__device__ __forceinline__ Bits and_or(Bits a, Bits mask, Bits bits) {
  Bits out;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(out) : "r"(a), "r"(mask), "r"(bits));
  return out;
}
constexpr Bits kMagic = 0x64006400;  // 1024, 1024
constexpr Bits kLow = 0x000F000F, kHigh = 0x00F000F0;

template <class T>
__device__ __forceinline__ void read(T& to, const std::uint8_t* at) {
  to = *reinterpret_cast<const T*>(at);
}

__device__ __forceinline__ Bits word(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
__device__ __forceinline__ Bits word(const uint2& v, int i) {
  return i == 0 ? v.x : v.y;
}

/// Eight 4-bit codes as 1024 + q (a[0], a[2]: row r) and 1024 + 16 q (a[1], a[3]: row r + 8).
__device__ __forceinline__ void spread4(Bits w, Bits (&a)[4]) {
  a[0] = and_or(w, kLow, kMagic);
  a[1] = and_or(w, kHigh, kMagic);
  w >>= 8;
  a[2] = and_or(w, kLow, kMagic);
  a[3] = and_or(w, kHigh, kMagic);
}
/// Adds the fifth bits: code (i, half) of step s has its bit at fifth_bit(s, i) of that half of h.
constexpr int fifth_bit(int step, int i) {
  return i == 3 ? step : 4 + 4 * i + step;
}
__device__ __forceinline__ void add_fifth(Bits h, int step, Bits (&a)[4]) {
  const Bits right = h >> step;
  a[0] = and_or(right, 0x00100010, a[0]);
  a[1] = and_or(right, 0x01000100, a[1]);
  a[2] = and_or(h >> (step + 8), 0x00100010, a[2]);
  a[3] = and_or(h << (8 - step), 0x01000100, a[3]);
}
/// Adds two upper bits: those of code i in step s (0 or 1 of this word) stand at sixth_bit(s, i).
constexpr int sixth_bit(int step, int i) {
  return i == 3 ? 2 * step : 4 + 4 * i + 2 * step;
}
__device__ __forceinline__ void add_sixth(Bits h, int step, Bits (&a)[4]) {
  const Bits right = h >> (2 * step);
  a[0] = and_or(right, 0x00300030, a[0]);
  a[1] = and_or(right, 0x03000300, a[1]);
  a[2] = and_or(h >> (2 * step + 8), 0x00300030, a[2]);
  a[3] = and_or(h << (8 - 2 * step), 0x03000300, a[3]);
}
/// Takes bias and offset off spread codes: exact integers q - offset.
template <int Offset>
__device__ __forceinline__ void exact_codes(Bits (&a)[4], __half2 (&q)[4]) {
  const __half2 low = __float2half2_rn(-1024.0f - Offset), high = __float2half2_rn(-64.0f - Offset);
  const __half2 sixteenth = __float2half2_rn(0.0625f);
  q[0] = __hadd2_rn(as_half2(a[0]), low);
  q[1] = __hfma2(as_half2(a[1]), sixteenth, high);
  q[2] = __hadd2_rn(as_half2(a[2]), low);
  q[3] = __hfma2(as_half2(a[3]), sixteenth, high);
}
/// 8-bit codes, kept biased by 128: two words a step.
__device__ __forceinline__ void exact_bytes(Bits w0, Bits w1, __half2 (&q)[4]) {
  const __half2 bias = __float2half2_rn(-1152.0f);
  q[0] = __hadd2_rn(as_half2(__byte_perm(w0, kMagic, 0x7150)), bias);
  q[1] = __hadd2_rn(as_half2(__byte_perm(w0, kMagic, 0x7352)), bias);
  q[2] = __hadd2_rn(as_half2(__byte_perm(w1, kMagic, 0x7150)), bias);
  q[3] = __hadd2_rn(as_half2(__byte_perm(w1, kMagic, 0x7352)), bias);
}
/// a = q * scale, once rounded; scale holds (row r, row r + 8).
__device__ __forceinline__ void scaled(const __half2 (&q)[4], __half2 scale, Bits (&a)[4]) {
  const __half2 s0 = __low2half2(scale), s1 = __high2half2(scale);
  a[0] = as_bits(__hmul2_rn(q[0], s0));
  a[1] = as_bits(__hmul2_rn(q[1], s1));
  a[2] = as_bits(__hmul2_rn(q[2], s0));
  a[3] = as_bits(__hmul2_rn(q[3], s1));
}
__device__ __forceinline__ void scaled_plus(const __half2 (&q)[4], __half2 scale, __half2 plus,
                                            Bits (&a)[4]) {
  const __half2 s0 = __low2half2(scale), s1 = __high2half2(scale);
  const __half2 p0 = __low2half2(plus), p1 = __high2half2(plus);
  a[0] = as_bits(__hfma2(q[0], s0, p0));
  a[1] = as_bits(__hfma2(q[1], s1, p1));
  a[2] = as_bits(__hfma2(q[2], s0, p0));
  a[3] = as_bits(__hfma2(q[3], s1, p1));
}
// ---- one struct per layout. A subtile is taken in parts of 64 inputs, in ascending order: load()
// reads a lane's share of part `part` from shared memory, fragment(s) makes the four A registers of
// its step s (16 inputs), steps in ascending order too ----
template <Layout L>
struct Codec;

template <>
struct Codec<Layout::F16> {
  uint4 q[4];
  __device__ __forceinline__ void load(const std::uint8_t* at, int, int lane) {
#pragma unroll
    for (int s = 0; s < 4; ++s) read(q[s], at + 512 * s + 16 * lane);
  }
  __device__ __forceinline__ void fragment(int s, Bits (&a)[4]) {
    a[0] = q[s].x, a[1] = q[s].y, a[2] = q[s].z, a[3] = q[s].w;
  }
};

template <>
struct Codec<Layout::Q8> {
  uint4 q[2];
  uint2 d;
  __device__ __forceinline__ void load(const std::uint8_t* at, int, int lane) {
    read(q[0], at + 16 * lane);
    read(q[1], at + 512 + 16 * lane);
    read(d, at + 1024 + 8 * (lane / 4));
  }
  __device__ __forceinline__ void fragment(int s, Bits (&a)[4]) {
    __half2 codes[4];
    exact_bytes(word(q[s / 2], s % 2 * 2), word(q[s / 2], s % 2 * 2 + 1), codes);
    scaled(codes, as_half2(word(d, s / 2)), a);
  }
};

/// Q4_0, Q4_1, Q5_0 and Q5_1: Five adds a bit plane, Min an offset per 32 inputs.
template <bool Five, bool Min>
struct Codec32 {
  uint4 q;
  Bits h;
  uint2 d, m;
  __device__ __forceinline__ void load(const std::uint8_t* at, int, int lane) {
    constexpr int kScales = 512 + (Five ? 128 : 0);
    read(q, at + 16 * lane);
    if (Five) read(h, at + 512 + 4 * lane);
    read(d, at + kScales + 8 * (lane / 4));
    if (Min) read(m, at + kScales + 64 + 8 * (lane / 4));
  }
  __device__ __forceinline__ void fragment(int s, Bits (&a)[4]) {
    __half2 codes[4];
    spread4(word(q, s), a);
    if (Five) add_fifth(h, s, a);
    exact_codes<Min ? 0 : Five ? 16 : 8>(a, codes);
    if (Min) {
      scaled_plus(codes, as_half2(word(d, s / 2)), as_half2(word(m, s / 2)), a);
    } else {
      scaled(codes, as_half2(word(d, s / 2)), a);
    }
  }
};
template <>
struct Codec<Layout::Q4> : Codec32<false, false> {};
template <>
struct Codec<Layout::Q4M> : Codec32<false, true> {};
template <>
struct Codec<Layout::Q5> : Codec32<true, false> {};
template <>
struct Codec<Layout::Q5M> : Codec32<true, true> {};

/// Scales and mins of Q4_K, Q5_K and Q2_K: w = d (sc q) - dmin m. Rounding dmin m to a half would
/// cost more than the final rounding, so an integer c near dmin m / d goes to the exact side:
/// w = d (sc q - c) - (dmin m - d c), where sc q - c is exact and the rest is small. c is a
/// multiple of 32, so that the bias 1024 sc + c is a half as well. The rest is made once, by
/// pack(): a group of both rows is two words, (sc, kNoMin - c / 32) of each row in bytes, then the
/// two rests as they are added.
constexpr int kNoMin = 128;

struct MinScale {
  __half2 scale, bias, rest;  // lanes: row r, row r + 8; row r + 8 is for codes times 16
  __half2 d;
  __device__ __forceinline__ void group(Bits codes, Bits rests) {
    // Halves from 1024, 64 and 32768 on are multiples of 1, 1 / 16 and 32.
    scale = __hadd2_rn(as_half2(__byte_perm(codes, 0x54006400, 0x7250)),
                       __floats2half2_rn(-1024.0f, -64.0f));
    const __half2 minus_c = __hadd2_rn(as_half2(__byte_perm(codes, 0x78007800, 0x7351)),
                                       __float2half2_rn(-32768.0f - 32.0f * kNoMin));
    bias = __hfma2(scale, __float2half2_rn(-1024.0f), minus_c);
    rest = as_half2(rests);
  }
  __device__ __forceinline__ void apply(Bits (&a)[4]) const {
    const __half2 s0 = __low2half2(scale), s1 = __high2half2(scale);
    const __half2 b0 = __low2half2(bias), b1 = __high2half2(bias);
    const __half2 d0 = __low2half2(d), d1 = __high2half2(d);
    const __half2 r0 = __low2half2(rest), r1 = __high2half2(rest);
    a[0] = as_bits(__hfma2(__hfma2(as_half2(a[0]), s0, b0), d0, r0));
    a[1] = as_bits(__hfma2(__hfma2(as_half2(a[1]), s1, b1), d1, r1));
    a[2] = as_bits(__hfma2(__hfma2(as_half2(a[2]), s0, b0), d0, r0));
    a[3] = as_bits(__hfma2(__hfma2(as_half2(a[3]), s1, b1), d1, r1));
  }
};

/// Q4_K, Q5_K (groups of 32 inputs) and Q2_K (groups of 16).
template <bool Five, int GroupSteps>
struct CodecMinK {
  static constexpr int kGroups = 4 / GroupSteps;  // per part
  uint4 q, s[kGroups / 2];
  Bits h;
  MinScale scale;
  __device__ __forceinline__ void load(const std::uint8_t* at, int part, int lane) {
    constexpr int kScales = 2048 + (Five ? 512 : 0);
    const int r = lane / 4;
    read(q, at + 512 * part + 16 * lane);
    if (Five) read(h, at + 2048 + 128 * part + 4 * lane);
#pragma unroll
    for (int i = 0; i < kGroups / 2; ++i)
      read(s[i], at + kScales + 8 * kGroups * (8 * part + r) + 16 * i);
    if (part == 0) read(scale.d, at + kScales + 256 * kGroups + 4 * r);
  }
  __device__ __forceinline__ void fragment(int step, Bits (&a)[4]) {
    const int group = step / GroupSteps;
    if (step % GroupSteps == 0)
      scale.group(word(s[group / 2], group % 2 * 2), word(s[group / 2], group % 2 * 2 + 1));
    spread4(word(q, step), a);
    if (Five) add_fifth(h, step, a);
    scale.apply(a);
  }
};
template <>
struct Codec<Layout::K4> : CodecMinK<false, 2> {};
template <>
struct Codec<Layout::K5> : CodecMinK<true, 2> {};
template <>
struct Codec<Layout::K2> : CodecMinK<false, 1> {};

/// Signed scales come biased by 128, one byte each for rows r and r + 8; Odd: the upper pair of w.
template <bool Odd>
__device__ __forceinline__ __half2 signed_pair(Bits w) {
  return __hadd2_rn(as_half2(__byte_perm(w, kMagic, Odd ? 0x7372 : 0x7170)),
                    __float2half2_rn(-1152.0f));
}
/// a = d (sc q), the inner product exact up to 2048 and rounded to even above.
__device__ __forceinline__ void scaled_twice(__half2 (&q)[4], __half2 sc, __half2 d, Bits (&a)[4]) {
  scaled(q, sc, a);
#pragma unroll
  for (int i = 0; i < 4; ++i) q[i] = as_half2(a[i]);
  scaled(q, d, a);
}

/// Q6_K and Q3_K: w = d (sc (q - 32)), a signed scale per 16 inputs.
template <>
struct Codec<Layout::K6> {
  uint4 q;
  uint2 h, s;
  Bits d;
  __device__ __forceinline__ void load(const std::uint8_t* at, int part, int lane) {
    const int r = lane / 4;
    read(q, at + 512 * part + 16 * lane);
    read(h, at + 2048 + 256 * part + 8 * lane);
    read(s, at + 3072 + 64 * part + 8 * r);
    read(d, at + 3328 + 4 * r);
  }
  __device__ __forceinline__ void fragment(int step, Bits (&a)[4]) {
    __half2 codes[4];
    spread4(word(q, step), a);
    add_sixth(word(h, step / 2), step % 2, a);
    exact_codes<32>(a, codes);
    const Bits pairs = word(s, step / 2);
    const __half2 sc = step % 2 ? signed_pair<true>(pairs) : signed_pair<false>(pairs);
    scaled_twice(codes, sc, as_half2(d), a);
  }
};

/// IQ4_XS as 8-bit values with a signed scale per 32 inputs.
template <>
struct Codec<Layout::K8> {
  uint4 q[2];
  Bits s, d;
  __device__ __forceinline__ void load(const std::uint8_t* at, int part, int lane) {
    const int r = lane / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) read(q[i], at + 1024 * part + 512 * i + 16 * lane);
    read(s, at + 4096 + 32 * part + 4 * r);
    read(d, at + 4224 + 4 * r);
  }
  __device__ __forceinline__ void fragment(int step, Bits (&a)[4]) {
    __half2 codes[4];
    exact_bytes(word(q[step / 2], step % 2 * 2), word(q[step / 2], step % 2 * 2 + 1), codes);
    const __half2 sc = step / 2 ? signed_pair<true>(s) : signed_pair<false>(s);
    scaled_twice(codes, sc, as_half2(d), a);
  }
};

#endif  // __CUDACC__

}  // namespace herd::cuda
