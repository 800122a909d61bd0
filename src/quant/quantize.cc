// f32 to GGUF blocks: quantize(), and the types with one scale per 32 values. These use the usual
// formulas (the extreme value meets the end of the code range), so other writers give equal bytes.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "quant/quantize_k.h"
#include "quant/types.h"

namespace herd::quant {
namespace {

/// 1 / d; 0 where that is not finite, because then d becomes a half of 0 and codes mean nothing.
float inverse(float d) {
  const float i = d == 0 ? 0 : 1 / d;
  return std::isfinite(i) ? i : 0;
}
/// The whole part of `position`, limited to 0..top; NaN gives 0.
int code(float position, int top) {
  return static_cast<int>(std::min(static_cast<float>(top), std::max(0.0f, position)));
}

/// Codes 0..2 * zero - 1 around `zero`; the value of largest magnitude gets code 0. Returns d.
std::uint16_t symmetric_codes(const float* x, int zero, int (&codes)[32]) {
  const float extreme =
      *std::max_element(x, x + 32, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  const float d = extreme / static_cast<float>(-zero), id = inverse(d);
  const float offset = static_cast<float>(zero) + 0.5f;
  for (int i = 0; i < 32; ++i) codes[i] = code(x[i] * id + offset, 2 * zero - 1);
  return float_to_half(d);
}

struct HalfLine {
  std::uint16_t d, m;
};
/// Codes 0..top from the least value to the largest.
HalfLine affine_codes(const float* x, int top, int (&codes)[32]) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float m = *low, d = (*high - m) / static_cast<float>(top), id = inverse(d);
  for (int i = 0; i < 32; ++i) codes[i] = code((x[i] - m) * id + 0.5f, top);
  return {float_to_half(d), float_to_half(m)};
}

void put_nibbles(const int (&codes)[32], std::uint8_t (&qs)[16]) {
  for (int i = 0; i < 16; ++i)
    qs[i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}
void put_fifth_bits(const int (&codes)[32], std::uint8_t (&qh)[4]) {
  std::memset(qh, 0, sizeof qh);
  for (int i = 0; i < 32; ++i)
    qh[i / 8] = static_cast<std::uint8_t>(qh[i / 8] | (codes[i] >> 4) << (i % 8));
}

void quantize_block(const float* x, BlockQ4_0& b) {
  int codes[32];
  b.d = symmetric_codes(x, 8, codes);
  put_nibbles(codes, b.qs);
}
void quantize_block(const float* x, BlockQ4_1& b) {
  int codes[32];
  const HalfLine line = affine_codes(x, 15, codes);
  b.d = line.d;
  b.m = line.m;
  put_nibbles(codes, b.qs);
}
void quantize_block(const float* x, BlockQ5_0& b) {
  int codes[32];
  b.d = symmetric_codes(x, 16, codes);
  put_nibbles(codes, b.qs);
  put_fifth_bits(codes, b.qh);
}
void quantize_block(const float* x, BlockQ5_1& b) {
  int codes[32];
  const HalfLine line = affine_codes(x, 31, codes);
  b.d = line.d;
  b.m = line.m;
  put_nibbles(codes, b.qs);
  put_fifth_bits(codes, b.qh);
}
/// Nearest, halves away from zero.
void quantize_block(const float* x, BlockQ8_0& b) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127, id = inverse(d);
  b.d = float_to_half(d);
  for (int i = 0; i < 32; ++i) {
    const float magnitude = std::min(127.0f, std::fabs(x[i]) * id);
    const int whole = static_cast<int>(magnitude);
    const int rounded = whole + (magnitude - static_cast<float>(whole) >= 0.5f ? 1 : 0);
    b.qs[i] = static_cast<std::int8_t>(x[i] < 0 ? -rounded : rounded);
  }
}

template <class Block>
void quantize_blocks(std::span<const float> values, std::span<std::byte> bytes) {
  const std::size_t per_block = values.size() / (bytes.size() / sizeof(Block));
  for (std::size_t at = 0, i = 0; i < values.size(); at += sizeof(Block), i += per_block) {
    Block block;
    quantize_block(values.data() + i, block);
    std::memcpy(bytes.data() + at, &block, sizeof(Block));
  }
}
template <std::uint16_t (*Convert)(float)>
void sixteen_bits(std::span<const float> values, std::span<std::byte> bytes) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = Convert(values[i]);
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
}

}  // namespace

void quantize(Type type, std::span<const float> values, std::span<std::byte> bytes) {
  if (values.empty()) return;
  switch (type) {
    case Type::F32: std::memcpy(bytes.data(), values.data(), bytes.size()); return;
    case Type::F16: return sixteen_bits<float_to_half>(values, bytes);
    case Type::BF16: return sixteen_bits<float_to_bf16>(values, bytes);
    case Type::Q4_0: return quantize_blocks<BlockQ4_0>(values, bytes);
    case Type::Q4_1: return quantize_blocks<BlockQ4_1>(values, bytes);
    case Type::Q5_0: return quantize_blocks<BlockQ5_0>(values, bytes);
    case Type::Q5_1: return quantize_blocks<BlockQ5_1>(values, bytes);
    case Type::Q8_0: return quantize_blocks<BlockQ8_0>(values, bytes);
    case Type::Q4_K: return quantize_blocks<BlockQ4_K>(values, bytes);
    case Type::Q5_K: return quantize_blocks<BlockQ5_K>(values, bytes);
    case Type::Q6_K: return quantize_blocks<BlockQ6_K>(values, bytes);
    case Type::Q2_K:
    case Type::Q3_K:
    case Type::IQ4_NL:
    case Type::IQ4_XS: return;  // can_quantize is false: excluded by the contract
  }
}

}  // namespace herd::quant
