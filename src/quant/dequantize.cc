// GGUF blocks to f32, element by element as the format's reference defines them.
#include <cstring>

#include "base/half.h"
#include "quant/types.h"

namespace herd::quant {
namespace {

void low_high_nibbles(const std::uint8_t* qs, int (&codes)[32]) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = qs[i] & 15;
    codes[i + 16] = qs[i] >> 4;
  }
}
/// Adds bit i of the 32 in qh to code i, as its fifth.
void add_fifth_bits(const std::uint8_t (&qh)[4], int (&codes)[32]) {
  for (int i = 0; i < 32; ++i) codes[i] |= ((qh[i / 8] >> (i % 8)) & 1) << 4;
}

void values(const BlockQ4_0& b, float* out) {
  const float d = half_to_float(b.d);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(codes[i] - 8);
}
void values(const BlockQ4_1& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(codes[i]) + m;
}
void values(const BlockQ5_0& b, float* out) {
  const float d = half_to_float(b.d);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  add_fifth_bits(b.qh, codes);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(codes[i] - 16);
}
void values(const BlockQ5_1& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  add_fifth_bits(b.qh, codes);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(codes[i]) + m;
}
void values(const BlockQ8_0& b, float* out) {
  const float d = half_to_float(b.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(b.qs[i]);
}
void values(const BlockIQ4_NL& b, float* out) {
  const float d = half_to_float(b.d);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(kIq4Values[codes[i]]);
}

/// The bits of `mask` at `shift` in each of `Count` bytes.
template <int Count>
void bit_field(const std::uint8_t* bytes, int shift, int mask, int (&codes)[Count]) {
  for (int i = 0; i < Count; ++i) codes[i] = (bytes[i] >> shift) & mask;
}
/// The 2-bit codes of sub-block j of Q2_K and Q3_K: each half of the block keeps four bit planes of
/// 32 values, two sub-blocks to a plane.
void pair_codes(const std::uint8_t* qs, int j, int (&codes)[16]) {
  bit_field(qs + j / 8 * 32 + j % 2 * 16, j % 8 / 2 * 2, 3, codes);
}
void values(const BlockQ2_K& b, float* out) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 16; ++j) {
    const float scale = d * static_cast<float>(b.scales[j] & 15);
    const float min = dmin * static_cast<float>(b.scales[j] >> 4);
    int codes[16];
    pair_codes(b.qs, j, codes);
    for (int i = 0; i < 16; ++i) out[16 * j + i] = scale * static_cast<float>(codes[i]) - min;
  }
}
/// Scale i of Q3_K: 6 bits, biased by 32; low nibbles first, then pairs of high bits.
int q3_scale(const std::uint8_t* s, int i) {
  const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
  return (low | ((s[8 + i % 4] >> (2 * (i / 4))) & 3) << 4) - 32;
}
void values(const BlockQ3_K& b, float* out) {
  const float d = half_to_float(b.d);
  for (int j = 0; j < 16; ++j) {
    const float scale = d * static_cast<float>(q3_scale(b.scales, j));
    int low[16], high[16];
    pair_codes(b.qs, j, low);
    bit_field(b.hmask + j % 2 * 16, j / 2, 1, high);
    for (int i = 0; i < 16; ++i)  // a set bit means that nothing is taken off
      out[16 * j + i] = scale * static_cast<float>(low[i] + 4 * high[i] - 4);
  }
}
struct ScaleMin {
  float scale, min;
};
/// Scale and min j of Q4_K and Q5_K: 6 bits each in 12 bytes.
ScaleMin k4_scale(const std::uint8_t* s, int j) {
  if (j < 4) return {static_cast<float>(s[j] & 63), static_cast<float>(s[j + 4] & 63)};
  return {static_cast<float>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4),
          static_cast<float>((s[j + 4] >> 4) | (s[j] >> 6) << 4)};
}
void values(const BlockQ4_K& b, float* out) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k4_scale(b.scales, j);
    const float scale = d * s.scale, min = dmin * s.min;
    int codes[32];
    bit_field(b.qs + j / 2 * 32, j % 2 * 4, 15, codes);
    for (int i = 0; i < 32; ++i) out[32 * j + i] = scale * static_cast<float>(codes[i]) - min;
  }
}
void values(const BlockQ5_K& b, float* out) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k4_scale(b.scales, j);
    const float scale = d * s.scale, min = dmin * s.min;
    int low[32], high[32];
    bit_field(b.qs + j / 2 * 32, j % 2 * 4, 15, low);
    bit_field(b.qh, j, 1, high);
    for (int i = 0; i < 32; ++i)
      out[32 * j + i] = scale * static_cast<float>(low[i] + 16 * high[i]) - min;
  }
}
void values(const BlockQ6_K& b, float* out) {
  const float d = half_to_float(b.d);
  for (int j = 0; j < 16; ++j) {
    const int half = j / 8, quarter = j % 8 / 2, l = j % 2 * 16;
    const float scale = d * static_cast<float>(b.scales[j]);
    int low[16], high[16];
    bit_field(b.ql + half * 64 + quarter % 2 * 32 + l, quarter / 2 * 4, 15, low);
    bit_field(b.qh + half * 32 + l, quarter * 2, 3, high);
    for (int i = 0; i < 16; ++i)
      out[16 * j + i] = scale * static_cast<float>(low[i] + 16 * high[i] - 32);
  }
}
void values(const BlockIQ4_XS& b, float* out) {
  const float d = half_to_float(b.d);
  for (int g = 0; g < 8; ++g) {
    const int low = b.scales_l[g / 2] >> (g % 2 * 4) & 15;
    const int high = b.scales_h >> (2 * g) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    int codes[32];
    low_high_nibbles(b.qs + 16 * g, codes);
    for (int i = 0; i < 32; ++i) out[32 * g + i] = scale * static_cast<float>(kIq4Values[codes[i]]);
  }
}

template <class Block>
void blocks(std::span<const std::byte> bytes, std::span<float> out, int per_block) {
  for (std::size_t at = 0, i = 0; at < bytes.size();
       at += sizeof(Block), i += static_cast<std::size_t>(per_block)) {
    Block block;
    std::memcpy(&block, bytes.data() + at, sizeof(Block));
    values(block, out.data() + i);
  }
}
template <float (*Convert)(std::uint16_t)>
void sixteen_bits(std::span<const std::byte> bytes, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    out[i] = Convert(bits);
  }
}

}  // namespace

void dequantize(Type type, std::span<const std::byte> bytes, std::span<float> out) {
  switch (type) {
    case Type::F32: std::memcpy(out.data(), bytes.data(), bytes.size()); return;
    case Type::F16: return sixteen_bits<half_to_float>(bytes, out);
    case Type::BF16: return sixteen_bits<bf16_to_float>(bytes, out);
    case Type::Q4_0: return blocks<BlockQ4_0>(bytes, out, 32);
    case Type::Q4_1: return blocks<BlockQ4_1>(bytes, out, 32);
    case Type::Q5_0: return blocks<BlockQ5_0>(bytes, out, 32);
    case Type::Q5_1: return blocks<BlockQ5_1>(bytes, out, 32);
    case Type::Q8_0: return blocks<BlockQ8_0>(bytes, out, 32);
    case Type::Q2_K: return blocks<BlockQ2_K>(bytes, out, 256);
    case Type::Q3_K: return blocks<BlockQ3_K>(bytes, out, 256);
    case Type::Q4_K: return blocks<BlockQ4_K>(bytes, out, 256);
    case Type::Q5_K: return blocks<BlockQ5_K>(bytes, out, 256);
    case Type::Q6_K: return blocks<BlockQ6_K>(bytes, out, 256);
    case Type::IQ4_NL: return blocks<BlockIQ4_NL>(bytes, out, 32);
    case Type::IQ4_XS: return blocks<BlockIQ4_XS>(bytes, out, 256);
  }
}

}  // namespace herd::quant
