// Paged causal attention. Few rows of a sequence: one warp an item, its keys split among warps.
// Many rows: one block an item, eight warps that share the tiles of keys.
#include <algorithm>

#include "backend/cuda/attention_tile.cuh"
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

/// One sequence's pages as one kv head sees them.
template <int Size>
struct Pages {
  const __half* pool;  // keys or values of the layer
  const std::int32_t* table;
  int kv_heads, kv_head, page_size, end_key;

  __device__ const __half* run_at(int key) const {
    const std::int64_t page = table[key / page_size];
    return pool + ((page * kv_heads + kv_head) * page_size + key % page_size) * Size;
  }
  __device__ TileSource tile(int t) const {
    const int first = t * kTileKeys;
    const __half* low = run_at(first);
    return {{low, first + 32 < end_key ? run_at(first + 32) : low}, first, end_key};
  }
};

template <int Size>
struct Setting {
  Pages<Size> keys, values;
  int group, kv_head;
};
template <int Size>
__device__ Setting<Size> setting(const AttentionLaunch& a, const BatchSequence& s, int kv_head) {
  const std::int32_t* table = a.step.block_table + s.first_page;
  const LayerPool& p = a.pool;
  return {{p.keys, table, p.kv_heads, kv_head, p.page_size, s.kv_length},
          {p.values, table, p.kv_heads, kv_head, p.page_size, s.kv_length},
          a.heads / p.kv_heads,
          kv_head};
}

// ---- few rows ----

/// A finished split in memory, as the lanes hold it; only rows that are pairs.
template <int Size>
__device__ void store_partial(float* to, const Span<Size>& split, const PairRow (&rows)[2],
                              int lane) {
  for (int r = 0; r < 2; ++r) {
    if (rows[r].visible == 0) continue;
    float2* at = reinterpret_cast<float2*>(to) + lane + r * 32 * (Size / 8 + 1);
#pragma unroll
    for (int n = 0; n < Size / 8; ++n)
      __stcg(at + n * 32, float2{split.o[n][2 * r], split.o[n][2 * r + 1]});
    __stcg(at + Size / 8 * 32, float2{split.m[r], split.l[r]});
  }
}
template <int Size>
__device__ void load_partial(const float* from, const PairRow (&rows)[2], int lane,
                             Span<Size>& split) {
  for (int r = 0; r < 2; ++r) {
    if (rows[r].visible == 0) continue;
    const float2* at = reinterpret_cast<const float2*>(from) + lane + r * 32 * (Size / 8 + 1);
#pragma unroll
    for (int n = 0; n < Size / 8; ++n) {
      const float2 o = __ldcg(at + n * 32);
      split.o[n][2 * r] = o.x, split.o[n][2 * r + 1] = o.y;
    }
    const float2 ml = __ldcg(at + Size / 8 * 32);
    split.m[r] = ml.x, split.l[r] = ml.y;
  }
}

/// Says that `done` splits of the item's pairs are in memory; true for whoever says it last.
__device__ bool all_done(std::int32_t* counter, int done, int n_splits, int lane) {
  __threadfence();
  __syncwarp();
  int before = 0;
  if (lane == 0) before = atomicAdd(counter, done);
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before + done < n_splits) return false;
  if (lane == 0) *counter = 0;  // as the next step expects it
  __threadfence();
  return true;
}

template <int Size>
__device__ void one_item(const AttentionLaunch& a, const AttentionItem& item, int kv_head,
                         std::uint32_t shared, int lane) {
  const BatchSequence s = item.sequence;
  const Setting<Size> in = setting<Size>(a, s, kv_head);
  const PairRow rows[2] = {
      pair_row(s, item.first_pair + lane / 4, in.group, kv_head, a.heads, a.pool.head_size),
      pair_row(s, item.first_pair + lane / 4 + 8, in.group, kv_head, a.heads, a.pool.head_size)};
  const int visible[2] = {rows[0].visible, rows[1].visible};
  const int last_row = min(s.n_rows - 1, (item.first_pair + kWarpRows - 1) / in.group);
  const int n_keys = s.kv_length - s.n_rows + last_row + 1;
  const int first = item.first_split * (kSplitKeys / kTileKeys);
  const int end = min(item.end_split * (kSplitKeys / kTileKeys), (n_keys - 1) / kTileKeys + 1);
  const std::uint32_t keys = shared, values = shared + kTileKeys * Size * 2;

  load_tile<Size, 32>(keys, in.keys.tile(first), lane);
  copies_commit();
  load_tile<Size, 32>(values, in.values.tile(first), lane);
  copies_commit();
  std::uint32_t q[Size / 16][4];
  load_queries<Size>(a.q, rows, a.pool.head_size, lane, q);
  Span<Size> split, total;
  split.clear(), total.clear();
  float* partial =
      item.slot < 0
          ? nullptr
          : a.partials + (static_cast<std::int64_t>(item.slot) * a.pool.kv_heads + kv_head) *
                             partial_floats(Size);
  for (int t = first; t < end; ++t) {
    copies_wait<1>();
    __syncwarp();
    float scores[8][4];
    scores_of_tile<Size>(q, keys, lane, scores);
    __syncwarp();
    if (t + 1 < end) load_tile<Size, 32>(keys, in.keys.tile(t + 1), lane);
    copies_commit();
    std::uint32_t p[4][4];
    softmax_of_tile<Size>(scores, t * kTileKeys, visible, a.scale_log2, lane, split, p);
    copies_wait<1>();
    __syncwarp();
    values_of_tile<Size>(p, values, lane, split);
    __syncwarp();
    if (t + 1 < end) load_tile<Size, 32>(values, in.values.tile(t + 1), lane);
    copies_commit();
    if (t + 1 < end && (t + 1) % (kSplitKeys / kTileKeys) != 0) continue;
    finish_split(split);
    if (partial == nullptr)
      fold(total, split);
    else
      store_partial(partial + static_cast<std::int64_t>(t / (kSplitKeys / kTileKeys)) *
                                  a.pool.kv_heads * partial_floats(Size),
                    split, rows, lane);
    split.clear();
  }
  if (partial != nullptr) {
    std::int32_t* counter = a.counters + item.tile * a.pool.kv_heads + kv_head;
    if (!all_done(counter, item.end_split - item.first_split, item.n_splits, lane)) return;
    for (int i = 0; i < item.n_splits; ++i) {
      load_partial(partial + static_cast<std::int64_t>(i) * a.pool.kv_heads * partial_floats(Size),
                   rows, lane, split);
      fold(total, split);
    }
  }
  store_rows(total, rows, a.pool.head_size, lane, a.out);
}

template <int Size>
__global__ void __launch_bounds__(32) attend_few(AttentionLaunch a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int work = a.step.counts->few_items * a.pool.kv_heads;
  // The first item is read beside the count, not after it: there is always room for one.
  AttentionItem item = a.step.few[blockIdx.x / a.pool.kv_heads];
  for (int w = blockIdx.x; w < work; w += gridDim.x) {
    if (w != blockIdx.x) item = a.step.few[w / a.pool.kv_heads];
    one_item<Size>(a, item, w % a.pool.kv_heads, shared_address(shared), threadIdx.x);
  }
}

// ---- many rows ----

constexpr int kBlockThreads = kPrefillRows / kWarpRows * 32;

template <int Size>
__global__ void __launch_bounds__(kBlockThreads, 1) attend_many(AttentionLaunch a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, kv_head = blockIdx.x;
  const AttentionItem item = a.step.many[blockIdx.y];
  const BatchSequence s = item.sequence;
  const Setting<Size> in = setting<Size>(a, s, kv_head);
  const int first_pair = item.first_pair + warp * kWarpRows;
  const PairRow rows[2] = {
      pair_row(s, first_pair + lane / 4, in.group, kv_head, a.heads, a.pool.head_size),
      pair_row(s, first_pair + lane / 4 + 8, in.group, kv_head, a.heads, a.pool.head_size)};
  const int visible[2] = {rows[0].visible, rows[1].visible};
  const auto keys_of_pair = [&](int pair) {
    return s.kv_length - s.n_rows + min(s.n_rows - 1, pair / in.group) + 1;
  };
  const int n_tiles = (keys_of_pair(item.first_pair + kPrefillRows - 1) - 1) / kTileKeys + 1;
  const bool any = first_pair / in.group < s.n_rows;
  const int warp_keys = any ? keys_of_pair(first_pair + kWarpRows - 1) : 0;
  constexpr int kTileBytes = kTileKeys * Size * 2;
  const std::uint32_t base = shared_address(shared);  // keys, values of even tiles; of odd ones
  const auto load = [&](int t) {
    const std::uint32_t to = base + static_cast<std::uint32_t>(t % 2 * 2 * kTileBytes);
    load_tile<Size, kBlockThreads>(to, in.keys.tile(t), threadIdx.x);
    load_tile<Size, kBlockThreads>(to + kTileBytes, in.values.tile(t), threadIdx.x);
  };

  load(0);
  copies_commit();
  std::uint32_t q[Size / 16][4];
  load_queries<Size>(a.q, rows, a.pool.head_size, lane, q);
  Span<Size> split, total;
  split.clear(), total.clear();
  for (int t = 0; t < n_tiles; ++t) {
    copies_wait<0>();
    __syncthreads();  // tile t is there, and nobody reads tile t - 1 any more
    if (t + 1 < n_tiles) load(t + 1);
    copies_commit();
    if (t * kTileKeys < warp_keys) {
      const std::uint32_t keys = base + static_cast<std::uint32_t>(t % 2 * 2 * kTileBytes);
      float scores[8][4];
      scores_of_tile<Size>(q, keys, lane, scores);
      std::uint32_t p[4][4];
      softmax_of_tile<Size>(scores, t * kTileKeys, visible, a.scale_log2, lane, split, p);
      values_of_tile<Size>(p, keys + kTileBytes, lane, split);
    }
    if (t + 1 < n_tiles && (t + 1) % (kSplitKeys / kTileKeys) != 0) continue;
    finish_split(split);
    fold(total, split);
    split.clear();
  }
  store_rows(total, rows, a.pool.head_size, lane, a.out);
}

constexpr int few_shared(int size) {
  return 2 * kTileKeys * size * 2;
}
constexpr int many_shared(int size) {
  return 2 * few_shared(size);
}

/// body(size constant) for the compiled size.
template <class Body>
auto with_size(int stride, Body&& body) {
  if (stride == 32) return body(std::integral_constant<int, 32>());
  if (stride == 64) return body(std::integral_constant<int, 64>());
  return body(std::integral_constant<int, 128>());
}

}  // namespace

int attention_stride(int head_size) {
  for (const int size : {32, 64, 128})
    if (head_size <= size) return size;
  return 0;
}
__host__ __device__ std::int64_t partial_floats(int stride) {
  return 2 * 32 * 2 * (stride / 8 + 1);
}

cudaError_t prepare_attention() {
  for (const int size : {32, 64, 128}) {
    const cudaError_t error = with_size(size, [](auto constant) {
      constexpr int kSize = decltype(constant)::value;
      const cudaError_t few = cudaFuncSetAttribute(
          attend_few<kSize>, cudaFuncAttributeMaxDynamicSharedMemorySize, few_shared(kSize));
      if (few != cudaSuccess) return few;
      return cudaFuncSetAttribute(attend_many<kSize>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  many_shared(kSize));
    });
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

int attention_warps(int stride, int multiprocessors) {
  return with_size(stride, [&](auto constant) {
    constexpr int kSize = decltype(constant)::value;
    int per_multiprocessor = 1;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, attend_few<kSize>, 32,
                                                  few_shared(kSize));
    return std::max(1, per_multiprocessor) * multiprocessors;
  });
}

void launch_attention_few(const AttentionLaunch& a, int blocks, cudaStream_t stream) {
  with_size(a.pool.stride, [&](auto constant) {
    constexpr int kSize = decltype(constant)::value;
    attend_few<kSize><<<static_cast<unsigned>(blocks), 32, few_shared(kSize), stream>>>(a);
  });
}
void launch_attention_many(const AttentionLaunch& a, int items, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(a.pool.kv_heads), static_cast<unsigned>(items));
  with_size(a.pool.stride, [&](auto constant) {
    constexpr int kSize = decltype(constant)::value;
    attend_many<kSize><<<grid, kBlockThreads, many_shared(kSize), stream>>>(a);
  });
}

}  // namespace herd::cuda
