// GGUF blocks to their codes and scales, and to f32, element by element as the format's reference
// defines them.
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

/// Codes, scales and mins of one block, one after another.
struct Parts {
  float *codes, *scales, *mins;

  template <int N>
  void add(const int (&values)[N], int centre) {
    for (int value : values) *codes++ = static_cast<float>(value - centre);
  }
};

void parts(const BlockQ4_0& b, Parts& to) {
  *to.scales++ = half_to_float(b.d);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  to.add(codes, 8);
}
void parts(const BlockQ4_1& b, Parts& to) {
  *to.scales++ = half_to_float(b.d);
  *to.mins++ = half_to_float(b.m);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  to.add(codes, 0);
}
void parts(const BlockQ5_0& b, Parts& to) {
  *to.scales++ = half_to_float(b.d);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  add_fifth_bits(b.qh, codes);
  to.add(codes, 16);
}
void parts(const BlockQ5_1& b, Parts& to) {
  *to.scales++ = half_to_float(b.d);
  *to.mins++ = half_to_float(b.m);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  add_fifth_bits(b.qh, codes);
  to.add(codes, 0);
}
void parts(const BlockQ8_0& b, Parts& to) {
  *to.scales++ = half_to_float(b.d);
  for (std::int8_t q : b.qs) *to.codes++ = static_cast<float>(q);
}
/// The values IQ4 codes stand for, in place of the codes.
void iq4_values(int (&codes)[32]) {
  for (int& code : codes) code = kIq4Values[code];
}
void parts(const BlockIQ4_NL& b, Parts& to) {
  *to.scales++ = half_to_float(b.d);
  int codes[32];
  low_high_nibbles(b.qs, codes);
  iq4_values(codes);
  to.add(codes, 0);
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
void parts(const BlockQ2_K& b, Parts& to) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 16; ++j) {
    *to.scales++ = d * static_cast<float>(b.scales[j] & 15);
    *to.mins++ = -(dmin * static_cast<float>(b.scales[j] >> 4));
    int codes[16];
    pair_codes(b.qs, j, codes);
    to.add(codes, 0);
  }
}
/// Scale i of Q3_K: 6 bits, biased by 32; low nibbles first, then pairs of high bits.
int q3_scale(const std::uint8_t* s, int i) {
  const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
  return (low | ((s[8 + i % 4] >> (2 * (i / 4))) & 3) << 4) - 32;
}
void parts(const BlockQ3_K& b, Parts& to) {
  const float d = half_to_float(b.d);
  for (int j = 0; j < 16; ++j) {
    *to.scales++ = d * static_cast<float>(q3_scale(b.scales, j));
    int codes[16], high[16];
    pair_codes(b.qs, j, codes);
    bit_field(b.hmask + j % 2 * 16, j / 2, 1, high);
    for (int i = 0; i < 16; ++i) codes[i] += 4 * high[i];
    to.add(codes, 4);  // so a set bit means that nothing is taken off
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
void parts(const BlockQ4_K& b, Parts& to) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k4_scale(b.scales, j);
    *to.scales++ = d * s.scale;
    *to.mins++ = -(dmin * s.min);
    int codes[32];
    bit_field(b.qs + j / 2 * 32, j % 2 * 4, 15, codes);
    to.add(codes, 0);
  }
}
void parts(const BlockQ5_K& b, Parts& to) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k4_scale(b.scales, j);
    *to.scales++ = d * s.scale;
    *to.mins++ = -(dmin * s.min);
    int codes[32], high[32];
    bit_field(b.qs + j / 2 * 32, j % 2 * 4, 15, codes);
    bit_field(b.qh, j, 1, high);
    for (int i = 0; i < 32; ++i) codes[i] += 16 * high[i];
    to.add(codes, 0);
  }
}
void parts(const BlockQ6_K& b, Parts& to) {
  const float d = half_to_float(b.d);
  for (int j = 0; j < 16; ++j) {
    const int half = j / 8, quarter = j % 8 / 2, l = j % 2 * 16;
    *to.scales++ = d * static_cast<float>(b.scales[j]);
    int codes[16], high[16];
    bit_field(b.ql + half * 64 + quarter % 2 * 32 + l, quarter / 2 * 4, 15, codes);
    bit_field(b.qh + half * 32 + l, quarter * 2, 3, high);
    for (int i = 0; i < 16; ++i) codes[i] += 16 * high[i];
    to.add(codes, 32);
  }
}
void parts(const BlockIQ4_XS& b, Parts& to) {
  const float d = half_to_float(b.d);
  for (int g = 0; g < 8; ++g) {
    const int low = b.scales_l[g / 2] >> (g % 2 * 4) & 15;
    const int high = b.scales_h >> (2 * g) & 3;
    *to.scales++ = d * static_cast<float>((low | high << 4) - 32);
    int codes[32];
    low_high_nibbles(b.qs + 16 * g, codes);
    iq4_values(codes);
    to.add(codes, 0);
  }
}

template <class Block>
void block_parts(std::span<const std::byte> bytes, Parts to) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, bytes.data() + at, sizeof(Block));
    parts(block, to);
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

void decompose(Type type, std::span<const std::byte> bytes, float* codes, float* scales,
               float* mins) {
  const Parts to = {codes, scales, mins};
  switch (type) {
    case Type::F32:
    case Type::F16:
    case Type::BF16: return;
    case Type::Q4_0: return block_parts<BlockQ4_0>(bytes, to);
    case Type::Q4_1: return block_parts<BlockQ4_1>(bytes, to);
    case Type::Q5_0: return block_parts<BlockQ5_0>(bytes, to);
    case Type::Q5_1: return block_parts<BlockQ5_1>(bytes, to);
    case Type::Q8_0: return block_parts<BlockQ8_0>(bytes, to);
    case Type::Q2_K: return block_parts<BlockQ2_K>(bytes, to);
    case Type::Q3_K: return block_parts<BlockQ3_K>(bytes, to);
    case Type::Q4_K: return block_parts<BlockQ4_K>(bytes, to);
    case Type::Q5_K: return block_parts<BlockQ5_K>(bytes, to);
    case Type::Q6_K: return block_parts<BlockQ6_K>(bytes, to);
    case Type::IQ4_NL: return block_parts<BlockIQ4_NL>(bytes, to);
    case Type::IQ4_XS: return block_parts<BlockIQ4_XS>(bytes, to);
  }
}

void dequantize(Type type, std::span<const std::byte> bytes, std::span<float> out) {
  switch (type) {
    case Type::F32: std::memcpy(out.data(), bytes.data(), bytes.size()); return;
    case Type::F16: return sixteen_bits<half_to_float>(bytes, out);
    case Type::BF16: return sixteen_bits<bf16_to_float>(bytes, out);
    default: break;
  }
  const TypeInfo& info = type_info(type);
  float codes[256], scales[16], mins[16];
  for (std::size_t block = 0; block * static_cast<std::size_t>(info.bytes) < bytes.size();
       ++block) {
    decompose(type,
              bytes.subspan(block * static_cast<std::size_t>(info.bytes),
                            static_cast<std::size_t>(info.bytes)),
              codes, scales, mins);
    float* to = out.data() + block * static_cast<std::size_t>(info.block);
    for (int i = 0; i < info.block; ++i) {
      const float product = scales[i / info.group] * codes[i];
      to[i] = info.has_min ? product + mins[i / info.group] : product;
    }
  }
}

}  // namespace herd::quant
