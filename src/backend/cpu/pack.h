// The order weights are kept in: 16 output rows side by side ("a panel"), so that one vector holds
// weights for 16 different outputs. The same bytes serve every instruction set.
//
// A panel consists of units: one per block of types with 32-value blocks, one per 256 values of
// K-quants, one per value (its 16 weights) of F32, F16 and BF16. Panels come in pairs whose units
// alternate, so that a kernel which has both side by side reads one run of memory: processors
// prefetch that best (docs/performance.md). A unit of blocks is a header of scales followed by code
// planes per 32 inputs ("a sub-block"), where lane l's bits sit in the l-th 32-bit word:
//   plane of b bits: b words of 32 / b inputs each; input 4q + j of a word at bit 8j + b q
// so that a shift and a mask leave four neighbouring inputs' codes, a byte each (formats.inl).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/types.h"

namespace herd::cpu {

inline constexpr int kPanelRows = 16;
inline constexpr int kPairPanels = 2;
inline constexpr int kPairRows = kPairPanels * kPanelRows;

/// How a type's panel is laid out; sizes in bytes for 16 rows.
struct PanelFormat {
  int unit;          // inputs per unit; 1 for the plain float types
  int header_bytes;  // scales at the front of a unit
  int sub_bytes;     // code planes of one sub-block; the whole unit for plain types
  constexpr std::int64_t unit_bytes() const {
    return unit == 1 ? sub_bytes : header_bytes + std::int64_t{unit / 32} * sub_bytes;
  }
};

constexpr PanelFormat panel_format(quant::Type type) {
  using enum quant::Type;
  switch (type) {
    case F32: return {1, 0, 64};
    case F16: return {1, 0, 32};
    case BF16: return {1, 0, 32};
    case Q4_0: return {32, 32, 256};           // d
    case Q4_1: return {32, 64, 256};           // d, m
    case Q5_0: return {32, 32, 320};           // d
    case Q5_1: return {32, 64, 320};           // d, m
    case Q8_0: return {32, 32, 512};           // d; codes are value + 128
    case IQ4_NL: return {32, 32, 256};         // d
    case Q2_K: return {256, 64 + 256, 128};    // d, dmin, [16] scale | min << 4
    case Q3_K: return {256, 32 + 256, 192};    // d, [16] signed scale
    case Q4_K: return {256, 64 + 256, 256};    // d, dmin, [8] (scale, min)
    case Q5_K: return {256, 64 + 256, 320};    // d, dmin, [8] (scale, min)
    case Q6_K: return {256, 32 + 256, 384};    // d, [16] signed scale
    case IQ4_XS: return {256, 32 + 128, 256};  // d, [8] signed scale
  }
  return {};
}

/// Bits of a code as packed; 0 for the plain float types.
constexpr int code_bits(quant::Type type) {
  using enum quant::Type;
  switch (type) {
    case F32:
    case F16:
    case BF16: return 0;
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
/// Weights that are values, not codes.
constexpr bool is_plain(quant::Type type) {
  return code_bits(type) == 0;
}
/// What a code of a type with signed ones has been raised by.
constexpr int code_offset(quant::Type type) {
  using enum quant::Type;
  switch (type) {
    case Q3_K: return 4;
    case Q4_0: return 8;
    case Q5_0: return 16;
    case Q6_K: return 32;
    case Q8_0: return 128;
    default: return 0;
  }
}
/// Codes that stand for quant::kIq4Values.
constexpr bool has_table(quant::Type type) {
  return type == quant::Type::IQ4_NL || type == quant::Type::IQ4_XS;
}
/// Bits of a code in the first plane of a sub-block and in the second, above those.
struct PlaneBits {
  int low, high;
};
constexpr PlaneBits plane_bits(quant::Type type) {
  const int bits = code_bits(type), low = bits == 8 ? 8 : bits >= 4 ? 4 : 2;
  return {low, bits - low};
}

constexpr std::int64_t panel_bytes(quant::Type type, std::int64_t columns) {
  return columns / panel_format(type).unit * panel_format(type).unit_bytes();
}

/// Panels of whole pairs that `rows` rows take.
constexpr std::int64_t panel_count(std::int64_t rows) {
  return (rows + kPairRows - 1) / kPairRows * kPairPanels;
}

/// Bytes from a panel's unit to its next.
constexpr std::int64_t unit_stride(quant::Type type) {
  return kPairPanels * panel_format(type).unit_bytes();
}

/// Where panel `i` of the matrix at `data` begins. Always inlined: see goes_on().
[[gnu::always_inline]] constexpr const std::byte* panel_at(const std::byte* data, quant::Type type,
                                                           std::int64_t panel_bytes,
                                                           std::int32_t i) {
  return data + i / kPairPanels * kPairPanels * panel_bytes +
         i % kPairPanels * panel_format(type).unit_bytes();
}

/// Packs up to 32 rows of raw GGUF blocks (`rows` of them, one after another) into a pair of
/// panels; rows past the last become zeros. REQUIRES: pair.size() == 2 * panel_bytes(type,
/// columns).
void pack_pair(quant::Type type, std::int64_t columns, int rows, const std::byte* raw,
               std::span<std::byte> pair);

/// Values of row `lane` of a panel of `columns` inputs, dequantised: exact, as every type's are.
void unpack_row(quant::Type type, std::int64_t columns, const std::byte* panel, int lane,
                float* out);

}  // namespace herd::cpu
