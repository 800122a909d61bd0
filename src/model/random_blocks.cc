#include "model/random_blocks.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "base/rng.h"

namespace herd {
namespace {

using namespace quant;

constexpr int kScales = 64;
/// The half scales blocks draw from.
struct ScaleTable {
  std::uint16_t d[kScales];
};

std::uint16_t times(std::uint16_t half, float factor) {
  return float_to_half(half_to_float(half) * factor);
}

// set_scales(block, d, r): the block's bytes are random already; makes its scales sane, with r for
// chance. Codes that are not centred (-8..7) get a scale of either sign, so that rows have mean 0.

template <class Block>
void set_scales(Block& b, std::uint16_t d, std::uint64_t r) {
  b.d = static_cast<std::uint16_t>(d ^ (r & 0x8000));
}
void set_scales(BlockQ4_1& b, std::uint16_t d, std::uint64_t) {
  b.d = d;
  b.m = times(d, -7.5f);
}
void set_scales(BlockQ5_1& b, std::uint16_t d, std::uint64_t) {
  b.d = d;
  b.m = times(d, -15.5f);
}
void set_scales(BlockQ2_K& b, std::uint16_t d, std::uint64_t) {
  b.d = d;
  b.dmin = times(d, 1.5f);
  for (std::uint8_t& s : b.scales)
    s = static_cast<std::uint8_t>((8 + (s & 7)) * 17);  // min = scale
}
/// 6-bit scales 32..63 and mins one above or below them, so that offsets centre the codes.
void affine_scales(std::uint64_t r, std::uint8_t (&s)[12]) {
  for (int j = 0; j < 4; ++j) {
    const int a = 32 | (r >> (10 * j) & 31), b = 32 | (r >> (10 * j + 5) & 31);
    const int min_a = a ^ static_cast<int>(r >> (40 + j) & 1);
    const int min_b = b ^ static_cast<int>(r >> (44 + j) & 1);
    s[j] = static_cast<std::uint8_t>(a | (b >> 4) << 6);
    s[j + 4] = static_cast<std::uint8_t>(min_a | (min_b >> 4) << 6);
    s[j + 8] = static_cast<std::uint8_t>((b & 15) | (min_b & 15) << 4);
  }
}
void set_scales(BlockQ4_K& b, std::uint16_t d, std::uint64_t r) {
  b.d = d;
  b.dmin = times(d, 7.5f);
  affine_scales(r >> 16, b.scales);
}
void set_scales(BlockQ5_K& b, std::uint16_t d, std::uint64_t r) {
  b.d = d;
  b.dmin = times(d, 15.5f);
  affine_scales(r >> 16, b.scales);
}
/// Scales of either sign, none below half of the largest.
void set_scales(BlockQ6_K& b, std::uint16_t d, std::uint64_t) {
  b.d = d;
  for (std::int8_t& s : b.scales) s = static_cast<std::int8_t>(s < 0 ? s & ~0x40 : s | 0x40);
}

template <class Block>
void fill_blocks(const ScaleTable& table, std::uint64_t seed, std::span<std::byte> out) {
  constexpr std::size_t kWords = (sizeof(Block) + 7) / 8;
  std::uint64_t position = 0;
  for (std::size_t at = 0; at < out.size(); at += sizeof(Block)) {
    std::uint64_t words[kWords];
    for (std::uint64_t& word : words) word = counter_bits(seed, position++);
    const std::uint64_t r = counter_bits(seed, position++);
    Block block;
    std::memcpy(&block, words, sizeof block);
    set_scales(block, table.d[r % kScales], r);
    std::memcpy(out.data() + at, &block, sizeof block);
  }
}

bool fill_any(Type type, const ScaleTable& table, std::uint64_t seed, std::span<std::byte> out) {
  switch (type) {
    case Type::F32:
    case Type::F16:
    case Type::BF16: return false;
    case Type::Q4_0: fill_blocks<BlockQ4_0>(table, seed, out); return true;
    case Type::Q4_1: fill_blocks<BlockQ4_1>(table, seed, out); return true;
    case Type::Q5_0: fill_blocks<BlockQ5_0>(table, seed, out); return true;
    case Type::Q5_1: fill_blocks<BlockQ5_1>(table, seed, out); return true;
    case Type::Q8_0: fill_blocks<BlockQ8_0>(table, seed, out); return true;
    case Type::Q2_K: fill_blocks<BlockQ2_K>(table, seed, out); return true;
    case Type::Q3_K: fill_blocks<BlockQ3_K>(table, seed, out); return true;
    case Type::Q4_K: fill_blocks<BlockQ4_K>(table, seed, out); return true;
    case Type::Q5_K: fill_blocks<BlockQ5_K>(table, seed, out); return true;
    case Type::Q6_K: fill_blocks<BlockQ6_K>(table, seed, out); return true;
    case Type::IQ4_NL: fill_blocks<BlockIQ4_NL>(table, seed, out); return true;
    case Type::IQ4_XS: fill_blocks<BlockIQ4_XS>(table, seed, out); return true;
  }
  return false;
}

/// Root mean square of values in blocks whose d is 1: what one unit of d is worth.
double unit_deviation(Type type) {
  constexpr std::size_t kSample = 1024;
  ScaleTable ones;
  for (std::uint16_t& d : ones.d) d = float_to_half(1.0f);
  const TypeInfo& info = type_info(type);
  std::vector<std::byte> blocks(kSample * static_cast<std::size_t>(info.bytes));
  std::vector<float> values(kSample * static_cast<std::size_t>(info.block));
  fill_any(type, ones, 0, blocks);
  dequantize(type, blocks, values);
  double sum = 0;
  for (const float v : values) sum += double(v) * v;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

/// Uniform values by way of a table of them in the wanted type, four to a random number.
template <class T, class Convert>
void fill_floats(double deviation, std::uint64_t seed, std::span<std::byte> out, Convert convert) {
  constexpr std::size_t kEntries = 4096;
  std::vector<T> table(kEntries);
  const double reach = std::sqrt(3.0) * deviation;
  for (std::size_t i = 0; i < kEntries; ++i)
    table[i] =
        convert(static_cast<float>(reach * ((2.0 * static_cast<double>(i) + 1) / kEntries - 1)));
  const std::size_t count = out.size() / sizeof(T);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t r = counter_bits(seed, i / 4) >> (i % 4 * 16);
    std::memcpy(out.data() + i * sizeof(T), &table[r % kEntries], sizeof(T));
  }
}

}  // namespace

void random_blocks(Type type, double deviation, std::uint64_t seed, std::span<std::byte> out) {
  if (type == Type::F32) return fill_floats<float>(deviation, seed, out, [](float v) { return v; });
  if (type == Type::F16) return fill_floats<std::uint16_t>(deviation, seed, out, float_to_half);
  if (type == Type::BF16) return fill_floats<std::uint16_t>(deviation, seed, out, float_to_bf16);
  ScaleTable table;
  // 3/4 to 5/4 of the wanted scale: 1 + 1/48 in the mean of squares.
  const double unit = deviation / unit_deviation(type) / std::sqrt(1 + 1.0 / 48);
  for (int i = 0; i < kScales; ++i)
    table.d[i] = float_to_half(static_cast<float>(unit * (0.75 + 0.5 * i / (kScales - 1))));
  fill_any(type, table, seed, out);
}

}  // namespace herd
