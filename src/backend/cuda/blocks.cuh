// GGUF blocks on the device: one value at a time, as src/quant/dequantize.cc defines it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "quant/types.h"

namespace herd::cuda {

__device__ inline float half_bits(std::uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
/// Blocks are not aligned: two bytes at a time.
__device__ inline std::uint16_t load_u16(const void* p) {
  const auto* bytes = static_cast<const std::uint8_t*>(p);
  return static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8);
}
template <class Block>
__device__ const Block* block_at(const void* row, int k, int size) {
  return reinterpret_cast<const Block*>(static_cast<const std::uint8_t*>(row) +
                                        static_cast<std::int64_t>(k / size) * sizeof(Block));
}
__device__ inline int nibble_of_32(const std::uint8_t* qs, int i) {
  return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}
__device__ inline int bit_of(const std::uint8_t* bits, int i) {
  return bits[i / 8] >> (i % 8) & 1;
}
__device__ inline int iq4_value(int code) {
  constexpr std::int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};
  return kValues[code];
}

struct DeviceScaleMin {
  float scale, min;
};
__device__ inline DeviceScaleMin scale_min_k4(const std::uint8_t* s, int j) {
  if (j < 4) return {static_cast<float>(s[j] & 63), static_cast<float>(s[j + 4] & 63)};
  return {static_cast<float>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4),
          static_cast<float>((s[j + 4] >> 4) | (s[j] >> 6) << 4)};
}
__device__ inline int scale_q3(const std::uint8_t* s, int i) {
  const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
  return (low | ((s[8 + i % 4] >> (2 * (i / 4))) & 3) << 4) - 32;
}

__device__ inline float value_32(quant::Type type, const void* row, int k) {
  using namespace quant;
  const int i = k % 32;
  switch (type) {
    case Type::Q4_0: {
      const auto* b = block_at<BlockQ4_0>(row, k, 32);
      return half_bits(load_u16(&b->d)) * static_cast<float>(nibble_of_32(b->qs, i) - 8);
    }
    case Type::Q4_1: {
      const auto* b = block_at<BlockQ4_1>(row, k, 32);
      return half_bits(load_u16(&b->d)) * static_cast<float>(nibble_of_32(b->qs, i)) +
             half_bits(load_u16(&b->m));
    }
    case Type::Q5_0: {
      const auto* b = block_at<BlockQ5_0>(row, k, 32);
      const int code = nibble_of_32(b->qs, i) | bit_of(b->qh, i) << 4;
      return half_bits(load_u16(&b->d)) * static_cast<float>(code - 16);
    }
    case Type::Q5_1: {
      const auto* b = block_at<BlockQ5_1>(row, k, 32);
      const int code = nibble_of_32(b->qs, i) | bit_of(b->qh, i) << 4;
      return half_bits(load_u16(&b->d)) * static_cast<float>(code) + half_bits(load_u16(&b->m));
    }
    case Type::Q8_0: {
      const auto* b = block_at<BlockQ8_0>(row, k, 32);
      return half_bits(load_u16(&b->d)) * static_cast<float>(b->qs[i]);
    }
    default: {  // IQ4_NL
      const auto* b = block_at<BlockIQ4_NL>(row, k, 32);
      return half_bits(load_u16(&b->d)) * static_cast<float>(iq4_value(nibble_of_32(b->qs, i)));
    }
  }
}

__device__ inline float value_256(quant::Type type, const void* row, int k) {
  using namespace quant;
  const int i = k % 256, j16 = i / 16, j32 = i / 32;
  switch (type) {
    case Type::Q2_K: {
      const auto* b = block_at<BlockQ2_K>(row, k, 256);
      const int code = b->qs[j16 / 8 * 32 + j16 % 2 * 16 + i % 16] >> (j16 % 8 / 2 * 2) & 3;
      return half_bits(load_u16(&b->d)) * static_cast<float>(b->scales[j16] & 15) *
                 static_cast<float>(code) -
             half_bits(load_u16(&b->dmin)) * static_cast<float>(b->scales[j16] >> 4);
    }
    case Type::Q3_K: {
      const auto* b = block_at<BlockQ3_K>(row, k, 256);
      const int low = b->qs[j16 / 8 * 32 + j16 % 2 * 16 + i % 16] >> (j16 % 8 / 2 * 2) & 3;
      const int high = b->hmask[j16 % 2 * 16 + i % 16] >> (j16 / 2) & 1;
      return half_bits(load_u16(&b->d)) * static_cast<float>(scale_q3(b->scales, j16)) *
             static_cast<float>(low + 4 * high - 4);
    }
    case Type::Q4_K: {
      const auto* b = block_at<BlockQ4_K>(row, k, 256);
      const DeviceScaleMin s = scale_min_k4(b->scales, j32);
      const int code = b->qs[j32 / 2 * 32 + i % 32] >> (j32 % 2 * 4) & 15;
      return half_bits(load_u16(&b->d)) * s.scale * static_cast<float>(code) -
             half_bits(load_u16(&b->dmin)) * s.min;
    }
    case Type::Q5_K: {
      const auto* b = block_at<BlockQ5_K>(row, k, 256);
      const DeviceScaleMin s = scale_min_k4(b->scales, j32);
      const int code =
          (b->qs[j32 / 2 * 32 + i % 32] >> (j32 % 2 * 4) & 15) | (b->qh[i % 32] >> j32 & 1) << 4;
      return half_bits(load_u16(&b->d)) * s.scale * static_cast<float>(code) -
             half_bits(load_u16(&b->dmin)) * s.min;
    }
    case Type::Q6_K: {
      const auto* b = block_at<BlockQ6_K>(row, k, 256);
      const int half = j16 / 8, quarter = j16 % 8 / 2, l = j16 % 2 * 16 + i % 16;
      const int low = b->ql[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
      const int high = b->qh[half * 32 + l] >> (quarter * 2) & 3;
      return half_bits(load_u16(&b->d)) * static_cast<float>(b->scales[j16]) *
             static_cast<float>(low + 16 * high - 32);
    }
    default: {  // IQ4_XS
      const auto* b = block_at<BlockIQ4_XS>(row, k, 256);
      const int low = b->scales_l[j32 / 2] >> (j32 % 2 * 4) & 15;
      const int high = load_u16(&b->scales_h) >> (2 * j32) & 3;
      return half_bits(load_u16(&b->d)) * static_cast<float>((low | high << 4) - 32) *
             static_cast<float>(iq4_value(nibble_of_32(b->qs + 16 * j32, i % 32)));
    }
  }
}

/// Value k of a row of raw blocks.
__device__ inline float value_at(quant::Type type, const void* row, int k) {
  const auto* bytes = static_cast<const std::uint8_t*>(row);
  switch (type) {
    case quant::Type::F32: {
      const std::uint32_t low = load_u16(bytes + 4ll * k), high = load_u16(bytes + 4ll * k + 2);
      return __uint_as_float(low | high << 16);
    }
    case quant::Type::F16: return half_bits(load_u16(bytes + 2ll * k));
    case quant::Type::BF16:
      return __uint_as_float(static_cast<std::uint32_t>(load_u16(bytes + 2ll * k)) << 16);
    case quant::Type::Q4_0:
    case quant::Type::Q4_1:
    case quant::Type::Q5_0:
    case quant::Type::Q5_1:
    case quant::Type::Q8_0:
    case quant::Type::IQ4_NL: return value_32(type, row, k);
    default: return value_256(type, row, k);
  }
}

}  // namespace herd::cuda
