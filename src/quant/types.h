// The weight types herd reads: one row per type, and the blocks as they stand in a GGUF file.
// Block layouts are those of the GGUF format (ggml-quants); sizes are asserted below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace herd::quant {

/// Values are GGUF's own type numbers.
enum class Type : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  IQ4_NL = 20,
  IQ4_XS = 23,
  BF16 = 30,
};

struct TypeInfo {
  Type type;
  std::string_view name;
  int block;          // values per block
  int bytes;          // bytes per block
  bool can_quantize;  // quantize() supports it
  int group;          // values that share a scale; 0: values are kept as they are
  bool has_min;       // value = scale * code + min; without one, scale * code
};

inline constexpr TypeInfo kTypes[] = {
    {Type::F32, "F32", 1, 4, true, 0, false},
    {Type::F16, "F16", 1, 2, true, 0, false},
    {Type::BF16, "BF16", 1, 2, true, 0, false},
    {Type::Q4_0, "Q4_0", 32, 18, true, 32, false},
    {Type::Q4_1, "Q4_1", 32, 20, true, 32, true},
    {Type::Q5_0, "Q5_0", 32, 22, true, 32, false},
    {Type::Q5_1, "Q5_1", 32, 24, true, 32, true},
    {Type::Q8_0, "Q8_0", 32, 34, true, 32, false},
    {Type::Q2_K, "Q2_K", 256, 84, false, 16, true},
    {Type::Q3_K, "Q3_K", 256, 110, false, 16, false},
    {Type::Q4_K, "Q4_K", 256, 144, true, 32, true},
    {Type::Q5_K, "Q5_K", 256, 176, true, 32, true},
    {Type::Q6_K, "Q6_K", 256, 210, true, 16, false},
    {Type::IQ4_NL, "IQ4_NL", 32, 18, false, 32, false},
    {Type::IQ4_XS, "IQ4_XS", 256, 136, false, 32, false},
};

/// The row of `type`, or nullptr if herd does not read it.
constexpr const TypeInfo* find_type(std::uint32_t gguf_type) {
  for (const TypeInfo& info : kTypes)
    if (static_cast<std::uint32_t>(info.type) == gguf_type) return &info;
  return nullptr;
}
/// REQUIRES: `type` is one of the enumerators.
constexpr const TypeInfo& type_info(Type type) {
  return *find_type(static_cast<std::uint32_t>(type));
}
/// The type called `name` (as in TypeInfo::name, case-sensitive), or nullptr.
constexpr const TypeInfo* find_type(std::string_view name) {
  for (const TypeInfo& info : kTypes)
    if (info.name == name) return &info;
  return nullptr;
}
/// GGUF's name for any type number, also those herd does not read ("IQ2_XXS"); "type 99" style for
/// unknown numbers is the caller's business: returns "" then.
std::string_view gguf_type_name(std::uint32_t gguf_type);

/// Bytes of one row of `columns` values. REQUIRES: columns is a multiple of the block.
constexpr std::int64_t row_bytes(Type type, std::int64_t columns) {
  return columns / type_info(type).block * type_info(type).bytes;
}

/// values[i] = the f32 value of element i, bit-exactly as the GGUF reference defines it.
/// REQUIRES: values.size() is a multiple of the block and bytes holds exactly those blocks.
void dequantize(Type type, std::span<const std::byte> bytes, std::span<float> values);

/// The same values in the parts the blocks are made of: value i is scales[g] * codes[i] + mins[g]
/// with g = i / group, every product exact; mins are left alone where the type has none. Products
/// with activations are summed over codes, one group at a time (docs/numerics.md). REQUIRES:
/// type_info(type).group > 0; sizes as for dequantize, scales and mins one per group.
void decompose(Type type, std::span<const std::byte> bytes, float* codes, float* scales,
               float* mins);

/// The inverse, deterministic, each block on its own. Types with one scale per 32 values use the
/// usual formulas (bytes as other writers give them); K-quants search their scales for the least
/// squares. Scales are halves: blocks of values beyond about 65,504 times the largest code become
/// infinite. REQUIRES: type_info(type).can_quantize, and sizes as for dequantize. Values must be
/// finite.
void quantize(Type type, std::span<const float> values, std::span<std::byte> bytes);

// ---- blocks, little-endian; d and m are IEEE half bits ----
struct BlockQ4_0 {
  std::uint16_t d;
  std::uint8_t qs[16];
};
struct BlockQ4_1 {
  std::uint16_t d, m;
  std::uint8_t qs[16];
};
struct BlockQ5_0 {
  std::uint16_t d;
  std::uint8_t qh[4], qs[16];
};
struct BlockQ5_1 {
  std::uint16_t d, m;
  std::uint8_t qh[4], qs[16];
};
struct BlockQ8_0 {
  std::uint16_t d;
  std::int8_t qs[32];
};
struct BlockQ2_K {
  std::uint8_t scales[16], qs[64];
  std::uint16_t d, dmin;
};
struct BlockQ3_K {
  std::uint8_t hmask[32], qs[64], scales[12];
  std::uint16_t d;
};
struct BlockQ4_K {
  std::uint16_t d, dmin;
  std::uint8_t scales[12], qs[128];
};
struct BlockQ5_K {
  std::uint16_t d, dmin;
  std::uint8_t scales[12], qh[32], qs[128];
};
struct BlockQ6_K {
  std::uint8_t ql[128], qh[64];
  std::int8_t scales[16];
  std::uint16_t d;
};
struct BlockIQ4_NL {
  std::uint16_t d;
  std::uint8_t qs[16];
};
struct BlockIQ4_XS {
  std::uint16_t d, scales_h;
  std::uint8_t scales_l[4], qs[128];
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136);

/// The 16 values IQ4 codes stand for.
inline constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace herd::quant
