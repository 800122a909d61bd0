// One warp's attention over one tile of 64 keys: what prefill and decode share, so that a query
// row's bits do not depend on which of them runs it. A warp holds 16 (row, head) pairs as the rows
// of mma.sync m16n8k16; every sum of a pair is independent of the other 15.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "backend/cuda/async.cuh"
#include "backend/cuda/step.h"

namespace herd::cuda {

constexpr float kNegative = -__builtin_inff();

// ---- PTX ----

__device__ inline void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int Left>
__device__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}
__device__ inline void load_4(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ inline void load_4_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline std::uint32_t pack_halves(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(h);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// ---- runs of keys or values, in the pool as in shared memory: 32 positions of a page stand
// together, [piece of 64 components][position][64] halves (of smaller heads [position][Size]). The
// chunks of 16 bytes of a row are swizzled, so that a column of eight rows touches every bank once;
// rows of 128 bytes stand as wgmma takes them ----

constexpr int kRunKeys = 32;

/// Halves in a row.
__host__ __device__ constexpr int row_width(int size) {
  return size < 64 ? size : 64;
}
/// Where chunk `chunk` of a row stands; `position` counts from any multiple of 8.
__host__ __device__ constexpr int swizzled(int width, int position, int chunk) {
  return width == 64 ? chunk ^ (position & 7) : chunk ^ ((position >> 1) & 3);
}
/// Halves from a head's first position in a page to `component` of `position`.
__host__ __device__ constexpr int pool_offset(int size, int position, int component) {
  const int width = row_width(size), row = position % kRunKeys, column = component % width;
  return (position - row) * size + (component / width * kRunKeys + row) * width +
         8 * swizzled(width, row, column / 8) + column % 8;
}
/// A tile is two runs. Where a lane finds chunk `odd` (0 or 1) of row `key` (below 16) in it; other
/// even chunks c of the row are at `^ 16 c`, so a tile's addresses take one instruction for 8 of
/// them, and no registers from tile to tile.
template <int Size>
__device__ std::uint32_t chunk_address(std::uint32_t tile, int key, int odd) {
  constexpr int kWidth = row_width(Size);
  return tile + static_cast<std::uint32_t>(key * (kWidth / 8) + swizzled(kWidth, key, odd)) * 16;
}
/// Bytes from row `key` below 16 to row `key` + `rows`, a multiple of 8.
template <int Size>
__device__ constexpr std::uint32_t rows_further(int rows) {
  return rows / kRunKeys * kRunKeys * 2 * Size + rows % kRunKeys * 2 * row_width(Size);
}
/// From an address in the first piece: chunk c for an even c, in the piece where it is.
template <int Size>
__device__ constexpr std::uint32_t chunk_further(std::uint32_t address, int chunk) {
  constexpr int kChunks = row_width(Size) / 8;
  return (address ^ (chunk % kChunks * 16)) + chunk / kChunks * kRunKeys * 2 * row_width(Size);
}

/// Where a tile's keys (or values) are: two runs of 32 positions.
struct TileSource {
  const __half* run[2];
  int first_key, end_key;  // keys from end_key on read as zero
};

template <int Size, int Threads>
__device__ void load_tile(std::uint32_t to, const TileSource& source, int thread) {
  constexpr int kRunChunks = kRunKeys * Size / 8, kRowChunks = row_width(Size) / 8;
#pragma unroll 8
  for (int i = thread; i < 2 * kRunChunks; i += Threads) {
    const int run = i / kRunChunks, at = i % kRunChunks;
    const int key = run * kRunKeys + at / kRowChunks % kRunKeys;
    copy_16(to + 16 * i, source.run[run] + at * 8, source.first_key + key < source.end_key);
  }
}

// ---- a warp's state ----

/// Un-normalised output, running maximum (of scores times scale_log2) and sum of one span of keys.
/// Lane l holds rows l / 4 and l / 4 + 8, columns 8 n + l % 4 * 2 and the next.
template <int Size>
struct Span {
  float o[Size / 8][4];
  float m[2], l[2];

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < Size / 8; ++n)
      for (int e = 0; e < 4; ++e) o[n][e] = 0;
    m[0] = m[1] = kNegative, l[0] = l[1] = 0;
  }
};

template <int Size>
__device__ void scores_of_tile(const std::uint32_t (&q)[Size / 16][4], std::uint32_t keys, int lane,
                               float (&s)[8][4]) {
#pragma unroll
  for (int n = 0; n < 8; ++n)
    for (int e = 0; e < 4; ++e) s[n][e] = 0;
  const std::uint32_t first = chunk_address<Size>(keys, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < Size / 16; ++k) {  // outside, so that a sum waits for nobody
    const std::uint32_t at = chunk_further<Size>(first, 2 * k);
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      std::uint32_t b[4];
      load_4(b, at + rows_further<Size>(8 * n));
      multiply_add(s[n], q[k], b[0], b[1]);
      multiply_add(s[n + 1], q[k], b[2], b[3]);
    }
  }
}

/// Online softmax: scores become weights, packed as the left operand of the next product; what
/// `span` holds is scaled to the new maximum. A lane's rows see keys below visible[0] and [1];
/// every pair of the warp sees those below `all_see`. Half: the matrix's rows from 8 on are no
/// pairs.
template <int Size, bool Half = false>
__device__ void softmax_of_tile(float (&s)[8][4], int first_key, const int (&visible)[2],
                                int all_see, float scale_log2, int lane, Span<Size>& span,
                                std::uint32_t (&p)[4][4]) {
  constexpr int kRows = Half ? 1 : 2;
  if (first_key + kTileKeys > all_see) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int left = visible[r] - first_key - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < 8; ++n)
        for (int e = 0; e < 2; ++e)
          if (n * 8 + e >= left) s[n][2 * r + e] = kNegative;
    }
  }
  const bool fresh = first_key % kSplitKeys == 0;  // nothing to scale yet
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float largest = kNegative;
#pragma unroll
    for (int n = 0; n < 8; ++n) largest = fmaxf(largest, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    largest = quad_max(largest);
    const float before = span.m[r];
    const float now = fmaxf(before, __fmul_rn(largest, scale_log2));
    const float base = now == kNegative ? 0.0f : now;
    const float shrink = exp2_fast(before - base);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[n][2 * r + e];
        x = exp2_fast(fmaf(x, scale_log2, -base));
        sum = __fadd_rn(sum, x);
      }
    }
    span.m[r] = now;
    span.l[r] = fmaf(span.l[r], shrink, sum);
    if (fresh) continue;
#pragma unroll
    for (int n = 0; n < Size / 8; ++n)
      for (int e = 0; e < 2; ++e) span.o[n][2 * r + e] = __fmul_rn(span.o[n][2 * r + e], shrink);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k)
    for (int h = 0; h < 2; ++h)
      for (int r = 0; r < 2; ++r)
        p[k][2 * h + r] =
            Half && r == 1 ? 0 : pack_halves(s[2 * k + h][2 * r], s[2 * k + h][2 * r + 1]);
}

template <int Size>
__device__ void values_of_tile(const std::uint32_t (&p)[4][4], std::uint32_t values, int lane,
                               Span<Size>& span) {
  const std::uint32_t first = chunk_address<Size>(values, lane / 8 % 2 * 8 + lane % 8, lane / 16);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int n = 0; n < Size / 8; n += 2) {
      std::uint32_t b[4];
      load_4_transposed(b, chunk_further<Size>(first, n) + rows_further<Size>(16 * k));
      multiply_add(span.o[n], p[k], b[0], b[1]);
      multiply_add(span.o[n + 1], p[k], b[2], b[3]);
    }
  }
}

/// The sums of a finished split, which its lanes hold in parts.
template <int Size>
__device__ void finish_split(Span<Size>& split) {
  split.l[0] = quad_sum(split.l[0]);
  split.l[1] = quad_sum(split.l[1]);
}

/// total = total followed by the finished split. Row r of a split that no key of was visible to is
/// left as it was.
template <int Size>
__device__ void fold_row(Span<Size>& total, const Span<Size>& split, int r) {
  if (split.m[r] == kNegative && split.l[r] == 0) return;
  const float m = fmaxf(total.m[r], split.m[r]);
  const float a = exp2_fast(total.m[r] - m), b = exp2_fast(split.m[r] - m);
  total.m[r] = m;
  total.l[r] = fmaf(split.l[r], b, __fmul_rn(total.l[r], a));
#pragma unroll
  for (int n = 0; n < Size / 8; ++n)
    for (int e = 2 * r; e < 2 * r + 2; ++e)
      total.o[n][e] = fmaf(split.o[n][e], b, __fmul_rn(total.o[n][e], a));
}
template <int Size, bool Half = false>
__device__ void fold(Span<Size>& total, const Span<Size>& split) {
  fold_row(total, split, 0);
  if (!Half) fold_row(total, split, 1);
}

// ---- pairs: rows of one sequence times heads of one group ----

struct PairRow {
  std::int64_t at;  // of the head in q and out
  int visible;      // keys it sees; 0: no such pair
};
__device__ inline PairRow pair_row(const BatchSequence& s, int pair, int group, int kv_head,
                                   int heads, int head_size) {
  const int row = pair / group;
  if (row >= s.n_rows) return {0, 0};
  const int head = kv_head * group + pair % group;
  return {(static_cast<std::int64_t>(s.first_row + row) * heads + head) * head_size,
          s.kv_length - s.n_rows + row + 1};
}

/// Keys that every pair of the warp sees.
__device__ inline int seen_by_all(const PairRow (&rows)[2]) {
  int least = 1 << 30;
  for (const PairRow& row : rows)
    if (row.visible > 0) least = min(least, row.visible);
  return __shfl_sync(0xffffffffu, __reduce_min_sync(0xffffffffu, least), 0);
}

template <int Size>
__device__ void load_queries(const __half* q, const PairRow (&rows)[2], int head_size, int lane,
                             std::uint32_t (&out)[Size / 16][4]) {
#pragma unroll
  for (int k = 0; k < Size / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const PairRow& row = rows[i % 2];
      const int d = k * 16 + i / 2 * 8 + lane % 4 * 2;
      out[k][i] = row.visible > 0 && d < head_size
                      ? *reinterpret_cast<const std::uint32_t*>(q + row.at + d)
                      : 0;
    }
  }
}

template <int Size>
__device__ void store_rows(const Span<Size>& total, const PairRow (&rows)[2], int head_size,
                           int lane, __half* out) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (rows[r].visible == 0) continue;
    const float inverse = __frcp_rn(total.l[r]);
#pragma unroll
    for (int n = 0; n < Size / 8; ++n) {
      const int d = n * 8 + lane % 4 * 2;
      if (d < head_size)
        *reinterpret_cast<std::uint32_t*>(out + rows[r].at + d) = pack_halves(
            __fmul_rn(total.o[n][2 * r], inverse), __fmul_rn(total.o[n][2 * r + 1], inverse));
    }
  }
}

}  // namespace herd::cuda
