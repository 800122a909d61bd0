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
int fifth_bit(const std::uint8_t* qh, int i) { return ((qh[i / 8] >> (i % 8)) & 1) << 4; }

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
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>((codes[i] | fifth_bit(b.qh, i)) - 16);
}
void values(const BlockQ5_1& b, float* out) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(codes[i] | fifth_bit(b.qh, i)) + m;
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

/// 2-bit code k of Q2_K and Q3_K: four bit planes of 32 values in each half of the block.
int pair_code(const std::uint8_t* qs, int k) {
  return (qs[k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2)) & 3;
}
void values(const BlockQ2_K& b, float* out) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int k = 0; k < 256; ++k) {
    const int scale = b.scales[k / 16];
    out[k] = d * static_cast<float>(scale & 15) * static_cast<float>(pair_code(b.qs, k)) -
             dmin * static_cast<float>(scale >> 4);
  }
}
/// Scale i of Q3_K: 6 bits, biased by 32; low nibbles first, then pairs of high bits.
int q3_scale(const std::uint8_t* s, int i) {
  const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
  return (low | ((s[8 + i % 4] >> (2 * (i / 4))) & 3) << 4) - 32;
}
void values(const BlockQ3_K& b, float* out) {
  const float d = half_to_float(b.d);
  for (int k = 0; k < 256; ++k) {
    const int high = (b.hmask[k % 32] >> (k / 32)) & 1;
    out[k] = d * static_cast<float>(q3_scale(b.scales, k / 16)) *
             static_cast<float>(pair_code(b.qs, k) - (high != 0 ? 0 : 4));
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
/// Low nibbles of 32 bytes, then their high nibbles.
int nibble_code(const std::uint8_t* qs, int k) {
  return (qs[k / 64 * 32 + k % 32] >> (k % 64 / 32 * 4)) & 15;
}
void values(const BlockQ4_K& b, float* out) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k4_scale(b.scales, j);
    const float scale = d * s.scale, min = dmin * s.min;
    for (int k = 32 * j; k < 32 * j + 32; ++k)
      out[k] = scale * static_cast<float>(nibble_code(b.qs, k)) - min;
  }
}
void values(const BlockQ5_K& b, float* out) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k4_scale(b.scales, j);
    const float scale = d * s.scale, min = dmin * s.min;
    for (int k = 32 * j; k < 32 * j + 32; ++k) {
      const int code = nibble_code(b.qs, k) | ((b.qh[k % 32] >> j) & 1) << 4;
      out[k] = scale * static_cast<float>(code) - min;
    }
  }
}
void values(const BlockQ6_K& b, float* out) {
  const float d = half_to_float(b.d);
  for (int k = 0; k < 256; ++k) {
    const int half = k / 128, quarter = k % 128 / 32, l = k % 32;
    const int low = b.ql[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
    const int high = b.qh[half * 32 + l] >> (quarter * 2) & 3;
    out[k] = d * static_cast<float>(b.scales[k / 16]) * static_cast<float>((low | high << 4) - 32);
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
  for (std::size_t at = 0, i = 0; at < bytes.size(); at += sizeof(Block), i += static_cast<std::size_t>(per_block)) {
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
