#include "backend/cpu/pack.h"

#include <cstring>

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

void or_word(std::byte* plane, int word, int lane, std::uint32_t bits) {
  std::byte* at = plane + (word * kPanelRows + lane) * 4;
  std::uint32_t value;
  std::memcpy(&value, at, 4);
  value |= bits;
  std::memcpy(at, &value, 4);
}

/// Places the 32 codes of a sub-block into planes; `bits` is the width of a code. See pack.h.
void place_codes(int bits, const std::uint8_t* codes, int lane, std::byte* planes) {
  const int low_bits = bits == 8 ? 8 : bits >= 4 ? 4 : 2;
  const int words = low_bits;  // 32 inputs * low_bits / 32
  std::byte* high = planes + words * kPanelRows * 4;
  for (int k = 0; k < 32; ++k) {
    const int g = k / 8, j = k % 8;
    const std::uint32_t code = codes[k];
    if (low_bits == 8) {
      or_word(planes, k / 4, lane, code << (8 * (k % 4)));
    } else if (low_bits == 4) {
      or_word(planes, g, lane, (code & 15) << (4 * j));
      if (bits == 5) or_word(high, 0, lane, (code >> 4) << (4 * j + g));
      if (bits == 6) or_word(high, g / 2, lane, (code >> 4) << (4 * j + 2 * (g % 2)));
    } else {
      or_word(planes, g / 2, lane, (code & 3) << (4 * j + 2 * (g % 2)));
      if (bits == 3) or_word(high, 0, lane, (code >> 2) << (4 * j + g));
    }
  }
}

constexpr int code_bits(Type type) {
  using enum Type;
  switch (type) {
    case Q2_K: return 2;
    case Q3_K: return 3;
    case Q5_0:
    case Q5_1:
    case Q5_K: return 5;
    case Q6_K: return 6;
    case Q8_0: return 8;
    default: return 4;
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
        place_codes(code_bits(type), parts.codes + 32 * s, lane,
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

}  // namespace herd::cpu
