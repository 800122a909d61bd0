// Raw GGUF blocks to the layouts of formats.cuh: one warp makes one subtile, each lane its own
// words.
#include "backend/cuda/formats.cuh"
#include "backend/cuda/matmul.h"

namespace herd::cuda {
namespace {

using quant::Type;

__device__ __forceinline__ std::uint16_t half_at(const std::uint8_t* at) {
  return static_cast<std::uint16_t>(at[0] | at[1] << 8);
}
__device__ __forceinline__ int fifth(const std::uint8_t* qh, int i) {
  return ((qh[i / 8] >> (i % 8)) & 1) << 4;
}
__device__ __forceinline__ int nibble32(const std::uint8_t* qs, int i) {
  return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}
__device__ const std::int8_t kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};

/// The block that holds input k of a row.
template <Type T>
__device__ __forceinline__ const std::uint8_t* block_of(const std::uint8_t* row, int k) {
  constexpr quant::TypeInfo info = quant::type_info(T);
  return row + static_cast<long long>(k / info.block) * info.bytes;
}

/// The stored code of input k: unsigned, biased as the layout wants it.
template <Type T>
__device__ int code(const std::uint8_t* row, int k) {
  const std::uint8_t* b = block_of<T>(row, k);
  const int i = k % quant::type_info(T).block;
  if constexpr (T == Type::Q4_0) return nibble32(b + 2, i);
  if constexpr (T == Type::Q4_1) return nibble32(b + 4, i);
  if constexpr (T == Type::Q5_0) return nibble32(b + 6, i) | fifth(b + 2, i);
  if constexpr (T == Type::Q5_1) return nibble32(b + 8, i) | fifth(b + 4, i);
  if constexpr (T == Type::Q8_0) return static_cast<std::int8_t>(b[2 + i]) + 128;
  if constexpr (T == Type::IQ4_NL) return kIq4[nibble32(b + 2, i)] + 128;
  if constexpr (T == Type::IQ4_XS) return kIq4[nibble32(b + 8 + i / 32 * 16, i % 32)] + 128;
  if constexpr (T == Type::Q4_K) return b[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
  if constexpr (T == Type::Q5_K)
    return (b[48 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) |
           (b[16 + i % 32] >> (i / 32) & 1) << 4;
  if constexpr (T == Type::Q6_K) {
    const int half = i / 128, quarter = i % 128 / 32, l = i % 32;
    return (b[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15) |
           (b[128 + half * 32 + l] >> (quarter * 2) & 3) << 4;
  }
  const int j = i / 16;  // sub-block of 16 of Q2_K and Q3_K
  if constexpr (T == Type::Q2_K)
    return b[16 + j / 8 * 32 + j % 2 * 16 + i % 16] >> (j % 8 / 2 * 2) & 3;
  if constexpr (T == Type::Q3_K) {  // as Q6_K: q - 4 + 32
    const int low = b[32 + j / 8 * 32 + j % 2 * 16 + i % 16] >> (j % 8 / 2 * 2) & 3;
    return low + 4 * (b[j % 2 * 16 + i % 16] >> (j / 2) & 1) + 28;
  }
  return 0;
}

/// The value of input k as a half; F16, BF16 and F32 only.
template <Type T>
__device__ std::uint16_t half_value(const std::uint8_t* row, int k, unsigned* overflow) {
  if constexpr (T == Type::F16) return half_at(row + 2ll * k);
  float value;
  if constexpr (T == Type::BF16) {
    value = __uint_as_float(static_cast<unsigned>(half_at(row + 2ll * k)) << 16);
  } else {
    const std::uint8_t* at = row + 4ll * k;
    value = __uint_as_float(half_at(at) | static_cast<unsigned>(half_at(at + 2)) << 16);
  }
  const __half h = __float2half_rn(value);
  if (!(fabsf(__half2float(h)) <= 65504.0f) && overflow != nullptr) *overflow = 1;
  return __half_as_ushort(h);
}

struct ScaleMinByte {
  int scale, min;
};
/// Scale (biased by 128 where the layout is signed) and min of group g.
template <Type T>
__device__ ScaleMinByte group_scale(const std::uint8_t* b, int g) {
  if constexpr (T == Type::Q4_K || T == Type::Q5_K) {
    const std::uint8_t* s = b + 4;
    if (g < 4) return {s[g] & 63, s[g + 4] & 63};
    return {(s[g + 4] & 15) | (s[g - 4] >> 6) << 4, (s[g + 4] >> 4) | (s[g] >> 6) << 4};
  }
  if constexpr (T == Type::Q2_K) return {b[g] & 15, b[g] >> 4};
  if constexpr (T == Type::Q6_K) return {static_cast<std::int8_t>(b[192 + g]) + 128, 0};
  if constexpr (T == Type::Q3_K) {
    const std::uint8_t* s = b + 96;
    const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
    return {(low | (s[8 + g % 4] >> (2 * (g / 4)) & 3) << 4) - 32 + 128, 0};
  }
  if constexpr (T == Type::IQ4_XS) {
    const int low = b[4 + g / 2] >> (g % 2 * 4) & 15, high = half_at(b + 2) >> (2 * g) & 3;
    return {(low | high << 4) - 32 + 128, 0};
  }
  return {0, 0};
}
/// The block's scale and the one of its mins or offsets.
template <Type T>
__device__ std::uint16_t block_scale(const std::uint8_t* b) {
  if constexpr (T == Type::Q6_K) return half_at(b + 208);
  if constexpr (T == Type::Q3_K) return half_at(b + 108);
  if constexpr (T == Type::Q2_K) return half_at(b + 80);
  return half_at(b);
}
template <Type T>
__device__ std::uint16_t block_min(const std::uint8_t* b) {
  if constexpr (T == Type::Q2_K) return half_at(b + 82);
  return half_at(b + 2);
}

/// A lane's two rows of the subtile at input k0; absent rows are nullptr.
struct Source {
  const std::uint8_t* row[2];
  int k0, columns;
  __device__ __forceinline__ bool has(int r, int k) const {
    return row[r] != nullptr && k0 + k < columns;
  }
};
/// Input (within the tile) of element h of register i in step s, for the lane's column c.
__device__ __forceinline__ int input_of(int s, int i, int h, int c) {
  return 16 * s + 2 * c + h + (i >= 2 ? 8 : 0);
}
template <Type T>
__device__ __forceinline__ unsigned code_of(const Source& in, int s, int i, int h, int c) {
  const int k = input_of(s, i, h, c), r = i % 2;
  return in.has(r, k) ? static_cast<unsigned>(code<T>(in.row[r], in.k0 + k)) : 0u;
}

template <Type T>
__device__ void pack_halves(const Source& in, std::uint8_t* out, int lane, unsigned* overflow) {
  for (int s = 0; s < 4; ++s) {
    for (int i = 0; i < 4; ++i) {
      unsigned w = 0;
      for (int h = 0; h < 2; ++h) {
        const int k = input_of(s, i, h, lane % 4), r = i % 2;
        if (in.has(r, k))
          w |= static_cast<unsigned>(half_value<T>(in.row[r], in.k0 + k, overflow)) << (16 * h);
      }
      *reinterpret_cast<unsigned*>(out + 512 * s + 16 * lane + 4 * i) = w;
    }
  }
}
template <Type T>
__device__ void pack_bytes(const Source& in, std::uint8_t* out, int lane) {
  for (int s = 0; s < tile_k(layout_of(T)) / 16; ++s) {
    for (int j = 0; j < 2; ++j) {
      unsigned w = 0;
      for (int b = 0; b < 4; ++b) w |= code_of<T>(in, s, 2 * j + b / 2, b % 2, lane % 4) << (8 * b);
      *reinterpret_cast<unsigned*>(out + 512 * (s / 2) + 16 * lane + 8 * (s % 2) + 4 * j) = w;
    }
  }
}
/// The lower nibbles; the upper bits of the codes go to a plane of their own behind them.
template <Type T>
__device__ void pack_nibbles(const Source& in, std::uint8_t* out, int lane) {
  constexpr Layout kLayout = layout_of(T);
  constexpr bool kFive = kLayout == Layout::Q5 || kLayout == Layout::Q5M || kLayout == Layout::K5;
  constexpr bool kSix = kLayout == Layout::K6;
  constexpr int kCodes = 32 * tile_k(kLayout) / 4;
  unsigned upper = 0;
  for (int s = 0; s < tile_k(kLayout) / 16; ++s) {
    unsigned w = 0;
    for (int i = 0; i < 4; ++i) {
      for (int h = 0; h < 2; ++h) {
        const unsigned q = code_of<T>(in, s, i, h, lane % 4);
        w |= (q & 15) << (4 * i + 16 * h);
        if (kFive) upper |= (q >> 4 & 1) << (fifth_bit(s % 4, i) + 16 * h);
        if (kSix) upper |= (q >> 4 & 3) << (sixth_bit(s % 2, i) + 16 * h);
      }
    }
    *reinterpret_cast<unsigned*>(out + 512 * (s / 4) + 16 * lane + 4 * (s % 4)) = w;
    if (kFive && s % 4 == 3) {
      const int at = 128 * (s / 4) + 4 * lane;
      *reinterpret_cast<unsigned*>(out + kCodes + at) = upper;
      upper = 0;
    }
    if (kSix && s % 2 == 1) {
      const int at = 256 * (s / 4) + 8 * lane + 4 * (s % 4 / 2);
      *reinterpret_cast<unsigned*>(out + kCodes + at) = upper;
      upper = 0;
    }
  }
}

template <Type T>
__device__ void pack_scales32(const Source& in, std::uint8_t* out, int lane) {
  constexpr Layout kLayout = layout_of(T);
  constexpr bool kMin = kLayout == Layout::Q4M || kLayout == Layout::Q5M;
  constexpr int kScales = subtile_bytes(kLayout) - (kMin ? 128 : 64);
  const int r = lane / 4, g = lane % 4;
  if (g >= 2) return;
  std::uint16_t d[2] = {}, m[2] = {};
  for (int i = 0; i < 2; ++i) {
    if (!in.has(i, 32 * g)) continue;
    const std::uint8_t* b = block_of<T>(in.row[i], in.k0 + 32 * g);
    d[i] = block_scale<T>(b);
    if (kMin) m[i] = block_min<T>(b);
  }
  *reinterpret_cast<unsigned*>(out + kScales + 8 * r + 4 * g) = d[0] | unsigned{d[1]} << 16;
  if (kMin)
    *reinterpret_cast<unsigned*>(out + kScales + 64 + 8 * r + 4 * g) = m[0] | unsigned{m[1]} << 16;
}
/// What stands for a group with a min: see MinScale.
struct MinGroup {
  std::uint8_t scale, minus_c;
  std::uint16_t rest;
};
__device__ MinGroup min_group(__half d, __half dmin, ScaleMinByte s) {
  const __half m = __int2half_rn(s.min);
  // Any ratio is right; this one leaves the smallest rest. 15 keeps 1024 sc + c a half.
  const float ratio = __fdividef(__half2float(dmin), __half2float(d));
  const __half near = __float2half_rn(fminf(fmaxf(ratio, -15.0f), 15.0f));
  const __half magic = __float2half_rn(49152.0f);  // halves near it are multiples of 32
  const __half c = __hsub_rn(__hfma(m, near, magic), magic);
  const __half high = __hmul_rn(dmin, m), low = __hfma(dmin, m, __hneg(high));
  const __half rest = __hsub_rn(__hfma(d, c, __hneg(high)), low);
  return {static_cast<std::uint8_t>(s.scale),
          static_cast<std::uint8_t>(kNoMin - __half2int_rn(c) / 32), __half_as_ushort(rest)};
}
/// d, and of each group the signed scale, biased by 128, or a MinGroup.
template <Type T>
__device__ void pack_groups(const Source& in, std::uint8_t* out, int lane) {
  constexpr Layout kLayout = layout_of(T);
  constexpr bool kMin = kLayout == Layout::K4 || kLayout == Layout::K5 || kLayout == Layout::K2;
  constexpr int kGroups = kLayout == Layout::K6 || kLayout == Layout::K2 ? 16 : 8;
  constexpr int kPerPart = kGroups / 4, kBytes = kMin ? 8 : 2;  // of a group of both rows
  constexpr int kScales = subtile_bytes(kLayout) - 8 * kBytes * kGroups - 32;
  const int r = lane / 4, c = lane % 4;
  std::uint16_t d[2] = {};
  for (int i = 0; i < 2; ++i) {
    const std::uint8_t* b = in.has(i, 0) ? block_of<T>(in.row[i], in.k0) : nullptr;
    if (b != nullptr) d[i] = block_scale<T>(b);
    for (int g = c; g < kGroups; g += 4) {
      std::uint8_t* at =
          out + kScales + kBytes * (kPerPart * (8 * (g / kPerPart) + r) + g % kPerPart);
      if constexpr (kMin) {
        const MinGroup packed =
            b != nullptr ? min_group(__ushort_as_half(d[i]), __ushort_as_half(block_min<T>(b)),
                                     group_scale<T>(b, g))
                         : MinGroup{0, kNoMin, 0};
        at[2 * i] = packed.scale, at[2 * i + 1] = packed.minus_c;
        *reinterpret_cast<std::uint16_t*>(at + 4 + 2 * i) = packed.rest;
      } else {
        at[i] = b != nullptr ? static_cast<std::uint8_t>(group_scale<T>(b, g).scale) : 0;
      }
    }
  }
  if (c != 0) return;
  *reinterpret_cast<unsigned*>(out + kScales + 8 * kBytes * kGroups + 4 * r) = d[0] | unsigned{d[1]}
                                                                                          << 16;
}

/// grid: (tiles of inputs, tiles of outputs); 128 threads, a warp to each subtile.
template <Type T>
__global__ void __launch_bounds__(128)
    pack_kernel(std::uint8_t* data, const std::uint8_t* raw, int first_row, int end_row,
                int columns, unsigned* overflow) {
  constexpr Layout kLayout = layout_of(T);
  constexpr int kTileK = tile_k(kLayout), kSub = subtile_bytes(kLayout);
  const int lane = threadIdx.x % 32, sub = threadIdx.x / 32;
  const int row0 = first_row + 64 * blockIdx.y + 16 * sub + lane / 4;
  const long long row_bytes = columns / quant::type_info(T).block * quant::type_info(T).bytes;
  Source in;
  in.k0 = kTileK * static_cast<int>(blockIdx.x), in.columns = columns;
  for (int i = 0; i < 2; ++i)
    in.row[i] = row0 + 8 * i < end_row ? raw + (row0 + 8 * i - first_row) * row_bytes : nullptr;
  const long long strip = first_row / 16 + 4ll * blockIdx.y + sub;
  std::uint8_t* out = data + (strip * gridDim.x + blockIdx.x) * kSub;
  if constexpr (kLayout == Layout::F16) {
    pack_halves<T>(in, out, lane, overflow);
  } else {
    if constexpr (kLayout == Layout::Q8 || kLayout == Layout::K8) {
      pack_bytes<T>(in, out, lane);
    } else {
      pack_nibbles<T>(in, out, lane);
    }
    if constexpr (is_k(kLayout)) {
      pack_groups<T>(in, out, lane);
    } else {
      pack_scales32<T>(in, out, lane);
    }
  }
}

template <Type T>
cudaError_t launch_pack(PackedMatrix& m, const void* raw, int first_row, int n_rows,
                        cudaStream_t stream) {
  constexpr int kTileK = tile_k(layout_of(T));
  const dim3 grid((m.columns + kTileK - 1) / kTileK, (n_rows + 63) / 64);
  pack_kernel<T><<<grid, 128, 0, stream>>>(static_cast<std::uint8_t*>(m.data),
                                           static_cast<const std::uint8_t*>(raw), first_row,
                                           first_row + n_rows, m.columns, m.overflow);
  return cudaGetLastError();
}

}  // namespace

long long packed_bytes(Type type, long long rows, long long columns) {
  const Layout layout = layout_of(type);
  return (rows + 63) / 64 * ((columns + tile_k(layout) - 1) / tile_k(layout)) * 4 *
         subtile_bytes(layout);
}

cudaError_t pack(PackedMatrix& m, const void* raw, int first_row, int n_rows, cudaStream_t stream) {
  const bool ends = first_row + n_rows == m.rows;
  if (m.data == nullptr || first_row < 0 || first_row % 64 != 0 || n_rows <= 0 ||
      first_row + n_rows > m.rows || (!ends && n_rows % 64 != 0) || m.columns % 32 != 0 ||
      m.columns % quant::type_info(m.type).block != 0)
    return cudaErrorInvalidValue;
  switch (m.type) {
#define HERD_PACK(T) \
  case Type::T: return launch_pack<Type::T>(m, raw, first_row, n_rows, stream);
    HERD_PACK(F32)
    HERD_PACK(F16)
    HERD_PACK(BF16)
    HERD_PACK(Q4_0)
    HERD_PACK(Q4_1)
    HERD_PACK(Q5_0)
    HERD_PACK(Q5_1)
    HERD_PACK(Q8_0)
    HERD_PACK(Q2_K)
    HERD_PACK(Q3_K)
    HERD_PACK(Q4_K) HERD_PACK(Q5_K) HERD_PACK(Q6_K) HERD_PACK(IQ4_NL) HERD_PACK(IQ4_XS)
#undef HERD_PACK
  }
  return cudaErrorInvalidValue;
}

}  // namespace herd::cuda
