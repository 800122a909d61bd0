#include "backend/cpu/pack.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"

namespace herd::cpu {
namespace {

using quant::Type;

/// One block taken apart: what a lane of a unit needs, before its bits are placed.
struct Parts {
  std::uint16_t halves[2] = {};  // d, then m or dmin
  std::uint8_t scales[16] = {};  // per-group scale bytes, in header order
  std::uint8_t mins[8] = {};
  std::uint8_t codes[256] = {};
};

template <class Block>
Block read_block(const std::byte* raw) {
  Block block;
  std::memcpy(&block, raw, sizeof(Block));
  return block;
}

/// 4-bit codes of a 32-value block: low nibbles first.
void nibbles32(const std::uint8_t* qs, std::uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = qs[i] & 15;
    codes[i + 16] = qs[i] >> 4;
  }
}

void fifth_bits(const std::uint8_t* qh, std::uint8_t* codes) {
  for (int i = 0; i < 32; ++i)
    codes[i] = static_cast<std::uint8_t>(codes[i] | ((qh[i / 8] >> (i % 8)) & 1) << 4);
}

/// Scale and min of group j of Q4_K and Q5_K: 6 bits each, packed in 12 bytes.
void k4_scales(const std::uint8_t* s, Parts& parts) {
  for (int j = 0; j < 4; ++j) {
    parts.scales[j] = s[j] & 63;
    parts.mins[j] = s[j + 4] & 63;
    parts.scales[j + 4] = static_cast<std::uint8_t>((s[j + 8] & 15) | (s[j] >> 6) << 4);
    parts.mins[j + 4] = static_cast<std::uint8_t>((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
  }
}

/// Signed scales of Q3_K: 6 bits each, biased by 32, packed in 12 bytes.
void k3_scales(const std::uint8_t* s, Parts& parts) {
  for (int i = 0; i < 16; ++i) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    const int high = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
    parts.scales[i] = static_cast<std::uint8_t>((low | high << 4) - 32);
  }
}

/// 2-bit codes of Q2_K and Q3_K: four planes of 32 in each half.
void pairs256(const std::uint8_t* qs, std::uint8_t* codes) {
  for (int k = 0; k < 256; ++k) codes[k] = (qs[k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2)) & 3;
}

/// 4-bit codes of Q4_K and Q5_K: low nibbles of 32 bytes, then their high nibbles.
void nibbles256(const std::uint8_t* qs, std::uint8_t* codes) {
  for (int k = 0; k < 256; ++k) codes[k] = (qs[k / 64 * 32 + k % 32] >> (k % 64 / 32 * 4)) & 15;
}

void take_apart(const quant::BlockQ4_0& b, Parts& p) {
  p.halves[0] = b.d;
  nibbles32(b.qs, p.codes);
}
void take_apart(const quant::BlockIQ4_NL& b, Parts& p) {
  p.halves[0] = b.d;
  nibbles32(b.qs, p.codes);
}
void take_apart(const quant::BlockQ4_1& b, Parts& p) {
  p.halves[0] = b.d, p.halves[1] = b.m;
  nibbles32(b.qs, p.codes);
}
void take_apart(const quant::BlockQ5_0& b, Parts& p) {
  p.halves[0] = b.d;
  nibbles32(b.qs, p.codes);
  fifth_bits(b.qh, p.codes);
}
void take_apart(const quant::BlockQ5_1& b, Parts& p) {
  p.halves[0] = b.d, p.halves[1] = b.m;
  nibbles32(b.qs, p.codes);
  fifth_bits(b.qh, p.codes);
}
void take_apart(const quant::BlockQ8_0& b, Parts& p) {
  p.halves[0] = b.d;
  for (int i = 0; i < 32; ++i) p.codes[i] = static_cast<std::uint8_t>(b.qs[i] + 128);
}
void take_apart(const quant::BlockQ2_K& b, Parts& p) {
  p.halves[0] = b.d, p.halves[1] = b.dmin;
  std::memcpy(p.scales, b.scales, 16);
  pairs256(b.qs, p.codes);
}
void take_apart(const quant::BlockQ3_K& b, Parts& p) {
  p.halves[0] = b.d;
  k3_scales(b.scales, p);
  pairs256(b.qs, p.codes);
  for (int k = 0; k < 256; ++k)
    p.codes[k] = static_cast<std::uint8_t>(p.codes[k] | ((b.hmask[k % 32] >> (k / 32)) & 1) << 2);
}
void take_apart(const quant::BlockQ4_K& b, Parts& p) {
  p.halves[0] = b.d, p.halves[1] = b.dmin;
  k4_scales(b.scales, p);
  nibbles256(b.qs, p.codes);
}
void take_apart(const quant::BlockQ5_K& b, Parts& p) {
  p.halves[0] = b.d, p.halves[1] = b.dmin;
  k4_scales(b.scales, p);
  nibbles256(b.qs, p.codes);
  for (int k = 0; k < 256; ++k)
    p.codes[k] = static_cast<std::uint8_t>(p.codes[k] | ((b.qh[k % 32] >> (k / 32)) & 1) << 4);
}
void take_apart(const quant::BlockQ6_K& b, Parts& p) {
  p.halves[0] = b.d;
  std::memcpy(p.scales, b.scales, 16);
  for (int k = 0; k < 256; ++k) {
    const int half = k / 128, quarter = k % 128 / 32, l = k % 32;
    const int low = b.ql[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
    const int high = b.qh[half * 32 + l] >> (quarter * 2) & 3;
    p.codes[k] = static_cast<std::uint8_t>(low | high << 4);
  }
}
void take_apart(const quant::BlockIQ4_XS& b, Parts& p) {
  p.halves[0] = b.d;
  for (int g = 0; g < 8; ++g) {
    const int low = b.scales_l[g / 2] >> (g % 2 * 4) & 15;
    const int high = b.scales_h >> (2 * g) & 3;
    p.scales[g] = static_cast<std::uint8_t>((low | high << 4) - 32);
    nibbles32(b.qs + g * 16, p.codes + g * 32);
  }
}

/// Bit of input `k` of a sub-block in its word of a plane of Bits bits.
template <int Bits>
constexpr int bit_of(int k) {
  return 8 * (k % 4) + k % (32 / Bits) / 4 * Bits;
}
constexpr int kWordBytes = kPanelRows * 4;  // from a lane's word to its next

/// Bits of 32 codes from bit `shift` on into lane `lane` of a plane.
template <int Bits>
void place_plane(const std::uint8_t* codes, int shift, int lane, std::byte* plane) {
  for (int w = 0, k = 0; w < Bits; ++w) {
    std::uint32_t word = 0;
    for (const int end = k + 32 / Bits; k < end; ++k)
      word |= ((std::uint32_t{codes[k]} >> shift) & ((1u << Bits) - 1)) << bit_of<Bits>(k);
    std::memcpy(plane + w * kWordBytes + lane * 4, &word, 4);
  }
}
/// The other way: adds the bits to 32 codes.
template <int Bits>
void read_plane(const std::byte* plane, int lane, int shift, std::uint8_t* codes) {
  for (int w = 0, k = 0; w < Bits; ++w) {
    std::uint32_t word;
    std::memcpy(&word, plane + w * kWordBytes + lane * 4, 4);
    for (const int end = k + 32 / Bits; k < end; ++k)
      codes[k] = static_cast<std::uint8_t>(
          codes[k] | ((word >> bit_of<Bits>(k)) & ((1u << Bits) - 1)) << shift);
  }
}

/// Places the 32 codes of a sub-block into planes: pack.h.
void place_codes(Type type, const std::uint8_t* codes, int lane, std::byte* planes) {
  const auto [low, high] = plane_bits(type);
  if (low == 8) place_plane<8>(codes, 0, lane, planes);
  if (low == 4) place_plane<4>(codes, 0, lane, planes);
  if (low == 2) place_plane<2>(codes, 0, lane, planes);
  if (high == 2) place_plane<2>(codes, low, lane, planes + low * kWordBytes);
  if (high == 1) place_plane<1>(codes, low, lane, planes + low * kWordBytes);
}
void read_codes(Type type, const std::byte* planes, int lane, std::uint8_t (&codes)[32]) {
  const auto [low, high] = plane_bits(type);
  std::memset(codes, 0, sizeof codes);
  if (low == 8) read_plane<8>(planes, lane, 0, codes);
  if (low == 4) read_plane<4>(planes, lane, 0, codes);
  if (low == 2) read_plane<2>(planes, lane, 0, codes);
  if (high == 2) read_plane<2>(planes + low * kWordBytes, lane, low, codes);
  if (high == 1) read_plane<1>(planes + low * kWordBytes, lane, low, codes);
}

/// Of the header of a unit's lane: half `i`, and byte `i` of the scales behind the halves.
float half_at(const std::byte* unit, int i, int lane) {
  std::uint16_t bits;
  std::memcpy(&bits, unit + (i * kPanelRows + lane) * 2, 2);
  return half_to_float(bits);
}
std::uint8_t byte_at(const std::byte* unit, int halves, int i, int lane) {
  return std::to_integer<std::uint8_t>(unit[halves * 32 + i * kPanelRows + lane]);
}

/// value = scale * code + min
struct Scales {
  float scale, min;
};
/// Of 16 inputs from 16 `h` of a unit on.
Scales scales_at(Type type, const std::byte* unit, int h, int lane) {
  using enum Type;
  const float d = half_at(unit, 0, lane);
  const auto signed_scale = [&](int i) {
    return d * static_cast<float>(static_cast<std::int8_t>(byte_at(unit, 1, i, lane)));
  };
  const auto of_two = [&](int scale, int min) {
    return Scales{d * static_cast<float>(scale), -half_at(unit, 1, lane) * static_cast<float>(min)};
  };
  switch (type) {
    case Q4_1:
    case Q5_1: return {d, half_at(unit, 1, lane)};
    case Q4_K:
    case Q5_K:
      return of_two(byte_at(unit, 2, h / 2 * 2, lane), byte_at(unit, 2, h / 2 * 2 + 1, lane));
    case Q2_K: return of_two(byte_at(unit, 2, h, lane) & 15, byte_at(unit, 2, h, lane) >> 4);
    case Q3_K:
    case Q6_K: return {signed_scale(h), 0.0f};
    case IQ4_XS: return {signed_scale(h / 2), 0.0f};
    default: return {d, 0.0f};
  }
}

/// Writes lane `lane` of a unit's header: halves, then scale bytes as [group][16] lanes.
void place_header(Type type, const Parts& parts, int lane, std::byte* unit) {
  const PanelFormat format = panel_format(type);
  const bool k_with_mins = type == Type::Q4_K || type == Type::Q5_K;
  const bool two = type == Type::Q4_1 || type == Type::Q5_1 || type == Type::Q2_K || k_with_mins;
  for (int i = 0; i < (two ? 2 : 1); ++i)
    std::memcpy(unit + (i * kPanelRows + lane) * 2, &parts.halves[i], 2);
  const int halves_bytes = two ? 64 : 32;
  const int groups = (format.header_bytes - halves_bytes) / kPanelRows;
  std::byte* scales = unit + halves_bytes;
  for (int g = 0; g < groups; ++g) {
    const std::uint8_t byte =
        k_with_mins ? (g % 2 == 0 ? parts.scales[g / 2] : parts.mins[g / 2]) : parts.scales[g];
    scales[g * kPanelRows + lane] = std::byte{byte};
  }
}

template <class Block>
void pack_units(Type type, std::int64_t columns, int rows, const std::byte* raw, std::byte* pair) {
  const PanelFormat format = panel_format(type);
  const std::int64_t units = columns / format.unit;
  for (int row = 0; row < rows; ++row) {
    const int panel = row / kPanelRows, lane = row % kPanelRows;
    for (std::int64_t u = 0; u < units; ++u) {
      Parts parts;
      take_apart(read_block<Block>(raw + (row * units + u) * std::int64_t{sizeof(Block)}), parts);
      std::byte* unit = pair + (kPairPanels * u + panel) * format.unit_bytes();
      place_header(type, parts, lane, unit);
      for (int s = 0; s < format.unit / 32; ++s)
        place_codes(type, parts.codes + 32 * s, lane,
                    unit + format.header_bytes + s * format.sub_bytes);
    }
  }
}

/// F32, F16, BF16: [k][32].
void pack_plain(std::int64_t columns, int rows, int bytes, const std::byte* raw, std::byte* pair) {
  for (int row = 0; row < rows; ++row)
    for (std::int64_t k = 0; k < columns; ++k)
      std::memcpy(pair + (k * kPairRows + row) * bytes, raw + (row * columns + k) * bytes,
                  static_cast<std::size_t>(bytes));
}

}  // namespace

void pack_pair(Type type, std::int64_t columns, int rows, const std::byte* raw,
               std::span<std::byte> pair) {
  std::memset(pair.data(), 0, pair.size());
  using enum Type;
  switch (type) {
    case F32: return pack_plain(columns, rows, 4, raw, pair.data());
    case F16:
    case BF16: return pack_plain(columns, rows, 2, raw, pair.data());
    case Q4_0: return pack_units<quant::BlockQ4_0>(type, columns, rows, raw, pair.data());
    case Q4_1: return pack_units<quant::BlockQ4_1>(type, columns, rows, raw, pair.data());
    case Q5_0: return pack_units<quant::BlockQ5_0>(type, columns, rows, raw, pair.data());
    case Q5_1: return pack_units<quant::BlockQ5_1>(type, columns, rows, raw, pair.data());
    case Q8_0: return pack_units<quant::BlockQ8_0>(type, columns, rows, raw, pair.data());
    case Q2_K: return pack_units<quant::BlockQ2_K>(type, columns, rows, raw, pair.data());
    case Q3_K: return pack_units<quant::BlockQ3_K>(type, columns, rows, raw, pair.data());
    case Q4_K: return pack_units<quant::BlockQ4_K>(type, columns, rows, raw, pair.data());
    case Q5_K: return pack_units<quant::BlockQ5_K>(type, columns, rows, raw, pair.data());
    case Q6_K: return pack_units<quant::BlockQ6_K>(type, columns, rows, raw, pair.data());
    case IQ4_NL: return pack_units<quant::BlockIQ4_NL>(type, columns, rows, raw, pair.data());
    case IQ4_XS: return pack_units<quant::BlockIQ4_XS>(type, columns, rows, raw, pair.data());
  }
}

void unpack_row(Type type, std::int64_t columns, const std::byte* panel, int lane, float* out) {
  const PanelFormat format = panel_format(type);
  const std::int64_t stride = unit_stride(type);
  if (is_plain(type)) {
    const std::int64_t bytes = format.unit_bytes() / kPanelRows;
    std::byte values[4 * 256];
    for (std::int64_t k0 = 0; k0 < columns; k0 += 256) {
      const std::int64_t n = std::min<std::int64_t>(256, columns - k0);
      for (std::int64_t k = 0; k < n; ++k)
        std::memcpy(values + k * bytes, panel + (k0 + k) * stride + lane * bytes,
                    static_cast<std::size_t>(bytes));
      quant::dequantize(type, {values, static_cast<std::size_t>(n * bytes)},
                        {out + k0, static_cast<std::size_t>(n)});
    }
    return;
  }
  for (std::int64_t k = 0; k < columns; k += 32) {
    const std::byte* unit = panel + k / format.unit * stride;
    const int sub = static_cast<int>(k % format.unit / 32);
    std::uint8_t codes[32];
    read_codes(type, unit + format.header_bytes + sub * format.sub_bytes, lane, codes);
    for (int h = 0; h < 2; ++h) {
      const Scales s = scales_at(type, unit, 2 * sub + h, lane);
      for (int i = 16 * h; i < 16 * h + 16; ++i) {
        const int code =
            has_table(type) ? quant::kIq4Values[codes[i]] : codes[i] - code_offset(type);
        out[k + i] = s.scale * static_cast<float>(code) + s.min;
      }
    }
  }
}

}  // namespace herd::cpu
