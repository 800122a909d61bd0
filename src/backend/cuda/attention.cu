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

// ---- few rows: one warp takes item after item; its keys and values come through a ring of tiles
// that runs ahead, over the ends of items too ----

constexpr int kRingTiles = 3;  // keys, values, and the keys after them
constexpr int kItemWords = sizeof(AttentionItem) / 4;

/// An item spread over the lanes: one load, and no wait for it before it is used.
struct SpreadItem {
  std::int32_t word = 0;  // lane i: word i

  __device__ void load(const AttentionLaunch& a, int w, int work, int lane) {
    if (w < work && lane < kItemWords)
      word = __ldg(reinterpret_cast<const std::int32_t*>(a.step.few + w / a.pool.kv_heads) + lane);
  }
  __device__ AttentionItem item() const {
    AttentionItem out;
    auto* words = reinterpret_cast<std::int32_t*>(&out);
#pragma unroll
    for (int i = 0; i < kItemWords; ++i) words[i] = __shfl_sync(0xffffffffu, word, i);
    return out;
  }
};
/// Tiles [first, end) of an item.
struct TileRange {
  int first, end;
};
__device__ TileRange tiles_of(const AttentionItem& item) {
  constexpr int kPerSplit = kSplitKeys / kTileKeys;
  return {item.first_split * kPerSplit,
          min(item.end_split * kPerSplit, (item.sequence.kv_length - 1) / kTileKeys + 1)};
}

/// Where the ring's next tile comes from.
template <int Size>
struct Fetcher {
  static constexpr int kTileBytes = kTileKeys * Size * 2;
  unsigned ring, barriers;
  int stage = 0;
  int w, work;  // of the item being fetched
  TileRange left = {};
  bool values = false;
  int kv_length = 0, old_keys = 0, first_page = 0, kv_head = 0, first_run = 0;
  std::int32_t page = 0, next_page = 0;  // lane i: the page of run first_run + i
  SpreadItem next, after;

  __device__ void begin(const AttentionLaunch& a, int lane) {
    next.load(a, w, work, lane);
    after.load(a, w + gridDim.x, work, lane);
    load_next_pages(a, lane);
    enter(a, lane);
  }
  __device__ std::int32_t page_of(const AttentionLaunch& a, int first, int keys, int run) const {
    const int key = run * kRunKeys;
    return key < keys ? __ldg(a.step.block_table + first + key / a.pool.page_size) : 0;
  }
  __device__ void load_next_pages(const AttentionLaunch& a, int lane) {
    if (w >= work) return;
    const AttentionItem item = next.item();
    next_page = page_of(a, item.sequence.first_page, item.sequence.kv_length,
                        2 * tiles_of(item).first + lane);
  }
  /// The next item becomes this one; the one after it is looked up meanwhile.
  __device__ void enter(const AttentionLaunch& a, int lane) {
    if (w >= work) return;
    const AttentionItem item = next.item();
    left = tiles_of(item);
    kv_length = item.sequence.kv_length;
    old_keys = kv_length - item.sequence.n_rows;
    first_page = item.sequence.first_page;
    kv_head = w % a.pool.kv_heads;
    first_run = 2 * left.first;
    page = next_page;
    next = after;
    w += gridDim.x;
    load_next_pages(a, lane);
    w -= gridDim.x;
    after.load(a, w + 2 * gridDim.x, work, lane);
  }
  /// Whether the next tile was complete before this step.
  __device__ bool is_old() const { return w < work && (left.first + 1) * kTileKeys <= old_keys; }
  __device__ void fetch(const AttentionLaunch& a, int lane) {
    if (w >= work) return;
    if (2 * left.first - first_run >= 32) {  // items as long as this are rare
      first_run = 2 * left.first;
      page = page_of(a, first_page, kv_length, first_run + lane);
    }
    const __half* pool = values ? a.pool.values : a.pool.keys;
    const int n_runs = left.first * kTileKeys + kRunKeys < kv_length ? 2 : 1;
    const unsigned barrier = barriers + 8 * stage;
    announce(barrier, n_runs * kTileBytes / 2, lane);
    for (int i = 0; i < n_runs; ++i) {
      const int run = 2 * left.first + i;
      const std::int64_t at = __shfl_sync(0xffffffffu, page, run - first_run);
      const int offset = run * kRunKeys % a.pool.page_size;
      copy_run(ring + stage * kTileBytes + i * (kTileBytes / 2),
               pool + ((at * a.pool.kv_heads + kv_head) * a.pool.page_size + offset) * Size,
               kTileBytes / 2, barrier, lane);
    }
    copied(barrier);
    if (++stage == kRingTiles) stage = 0;
    values = !values;
    if (values || ++left.first < left.end) return;
    w += gridDim.x;
    enter(a, lane);
  }
};

/// A finished split in memory, [pair][Size] sums and then [pair] maximum and sum; only rows that
/// are pairs.
template <int Size, bool Half>
__device__ void store_partial(float* to, const Span<Size>& split, const PairRow (&rows)[2],
                              int lane) {
#pragma unroll
  for (int r = 0; r < (Half ? 1 : 2); ++r) {
    if (rows[r].visible == 0) continue;
    const int pair = lane / 4 + 8 * r;
    float* at = to + pair * Size + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < Size / 8; ++n)
      __stcg(reinterpret_cast<float2*>(at + 8 * n),
             float2{split.o[n][2 * r], split.o[n][2 * r + 1]});
    if (lane % 4 == 0)
      __stcg(reinterpret_cast<float2*>(to + kWarpRows * Size) + pair,
             float2{split.m[r], split.l[r]});
  }
}

/// Folds an item's splits out of memory as fold_row does, four values of a pair to a lane, and
/// writes the result.
template <int Size>
__device__ void fold_partials(const AttentionLaunch& a, const AttentionItem& item, int kv_head,
                              const float* partial, int lane) {
  constexpr int kQuads = Size / 4, kPasses = 4;
  const BatchSequence& s = item.sequence;
  const int group = a.heads / a.pool.kv_heads, pairs = s.n_rows * group;
  const std::int64_t step = a.pool.kv_heads * partial_floats(Size);
  for (int base = 0; base < pairs; base += kPasses * 32 / kQuads) {
    float4 o[kPasses];
    float m[kPasses], l[kPasses];
#pragma unroll
    for (int j = 0; j < kPasses; ++j) o[j] = {0, 0, 0, 0}, m[j] = kNegative, l[j] = 0;
#pragma unroll 4
    for (int i = 0; i < item.n_splits; ++i) {
      const float* split = partial + i * step;
#pragma unroll
      for (int j = 0; j < kPasses; ++j) {
        const int pair = min(base + (j * 32 + lane) / kQuads, pairs - 1);
        const float4 v =
            __ldcg(reinterpret_cast<const float4*>(split + pair * Size) + lane % kQuads);
        const float2 ml = __ldcg(reinterpret_cast<const float2*>(split + kWarpRows * Size) + pair);
        if (ml.x == kNegative && ml.y == 0) continue;
        const float largest = fmaxf(m[j], ml.x);
        const float x = exp2_fast(m[j] - largest), y = exp2_fast(ml.x - largest);
        m[j] = largest;
        l[j] = fmaf(ml.y, y, __fmul_rn(l[j], x));
        o[j].x = fmaf(v.x, y, __fmul_rn(o[j].x, x)), o[j].y = fmaf(v.y, y, __fmul_rn(o[j].y, x));
        o[j].z = fmaf(v.z, y, __fmul_rn(o[j].z, x)), o[j].w = fmaf(v.w, y, __fmul_rn(o[j].w, x));
      }
    }
#pragma unroll
    for (int j = 0; j < kPasses; ++j) {
      const int pair = base + (j * 32 + lane) / kQuads, d = lane % kQuads * 4;
      if (pair >= pairs) continue;
      const PairRow row = pair_row(s, pair, group, kv_head, a.heads, a.pool.head_size);
      const float inverse = __frcp_rn(l[j]);
      auto* out = reinterpret_cast<std::uint32_t*>(a.out + row.at + d);
      if (d < a.pool.head_size)
        out[0] = pack_halves(__fmul_rn(o[j].x, inverse), __fmul_rn(o[j].y, inverse));
      if (d + 2 < a.pool.head_size)
        out[1] = pack_halves(__fmul_rn(o[j].z, inverse), __fmul_rn(o[j].w, inverse));
    }
  }
}

/// Says that `done` splits of the item's pairs are in memory; true for whoever says it last.
__device__ bool all_done(std::int32_t* counter, int done, int n_splits, int lane) {
  int before = 0;
  __syncwarp();  // the lanes' stores come before lane 0's release
  if (lane == 0)
    asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(done)
                 : "memory");
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before + done < n_splits) return false;
  if (lane == 0) *counter = 0;  // as the next step expects it
  __syncwarp();
  return true;
}

/// Values that are not there become zeros: their weights are zero, but what stood in the page may
/// be no number.
template <int Size>
__device__ void clear_rows(unsigned tile, int first, int lane) {
  for (int i = first * (Size / 8) + lane; i < kTileKeys * (Size / 8); i += 32)
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                     tile + 2 * pool_offset(Size, i / (Size / 8), i % (Size / 8) * 8)),
                 "r"(0)
                 : "memory");
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  __syncwarp();
}

/// Tiles taken out of the ring, in order.
template <int Size>
struct Taker {
  unsigned ring, barriers;
  int stage = 0;
  unsigned parity = 0;

  __device__ unsigned wait() const {
    wait_full(barriers + 8 * stage, parity);
    return ring + stage * Fetcher<Size>::kTileBytes;
  }
  __device__ void release() {
    __syncwarp();
    if (++stage == kRingTiles) stage = 0, parity ^= 1;
  }
};

/// Half: at most 8 pairs.
template <int Size, bool Half>
__device__ void one_item(const AttentionLaunch& a, const AttentionItem& item, int kv_head, int lane,
                         Taker<Size>& taker, Fetcher<Size>& fetcher) {
  constexpr int kTilesPerSplit = kSplitKeys / kTileKeys;
  const BatchSequence& s = item.sequence;
  const int group = a.heads / a.pool.kv_heads;
  const PairRow rows[2] = {
      pair_row(s, lane / 4, group, kv_head, a.heads, a.pool.head_size),
      Half ? PairRow{0, 0} : pair_row(s, lane / 4 + 8, group, kv_head, a.heads, a.pool.head_size)};
  const int visible[2] = {rows[0].visible, rows[1].visible}, all_see = seen_by_all(rows);
  std::uint32_t q[Size / 16][4];
  load_queries<Size>(a.q, rows, a.pool.head_size, lane, q);
  Span<Size> split, total;
  split.clear(), total.clear();
  const std::int64_t per_split = a.pool.kv_heads * partial_floats(Size);
  float* partial = a.partials + (static_cast<std::int64_t>(item.slot) * a.pool.kv_heads + kv_head) *
                                    partial_floats(Size);
  const TileRange range = tiles_of(item);
  for (int t = range.first; t < range.end; ++t) {
    float scores[8][4];
    scores_of_tile<Size>(q, taker.wait(), lane, scores);
    taker.release();
    fetcher.fetch(a, lane);
    std::uint32_t p[4][4];
    softmax_of_tile<Size, Half>(scores, t * kTileKeys, visible, all_see, a.scale_log2, lane, split,
                                p);
    const unsigned values = taker.wait();
    if ((t + 1) * kTileKeys > s.kv_length)
      clear_rows<Size>(values, s.kv_length - t * kTileKeys, lane);
    values_of_tile<Size>(p, values, lane, split);
    taker.release();
    fetcher.fetch(a, lane);
    if (t + 1 < range.end && (t + 1) % kTilesPerSplit != 0) continue;
    finish_split(split);
    if (item.slot < 0)
      fold<Size, Half>(total, split);
    else
      store_partial<Size, Half>(partial + t / kTilesPerSplit * per_split, split, rows, lane);
    split.clear();
  }
  if (item.slot < 0) return store_rows(total, rows, a.pool.head_size, lane, a.out);
  std::int32_t* counter = a.counters + item.tile * a.pool.kv_heads + kv_head;
  if (all_done(counter, item.end_split - item.first_split, item.n_splits, lane))
    fold_partials<Size>(a, item, kv_head, partial, lane);
}

template <int Size>
__global__ void __launch_bounds__(32) attend_few(AttentionLaunch a) {
  extern __shared__ __align__(256) unsigned char shared[];
  const int lane = threadIdx.x, work = a.step.counts->few_items * a.pool.kv_heads;
  const unsigned ring = shared_address(shared);
  const unsigned barriers = ring + kRingTiles * Fetcher<Size>::kTileBytes;
  if (lane < kRingTiles) init_barrier(barriers + 8 * lane);
  publish_barriers();
  __syncwarp();
  Fetcher<Size> fetcher{ring, barriers};
  fetcher.w = blockIdx.x, fetcher.work = work;
  fetcher.begin(a, lane);
  SpreadItem current, next;
  next.load(a, blockIdx.x, work, lane);
  // Keys and values of earlier steps need not wait for the kernels before this one.
  int ahead = 0;
  for (; ahead < kRingTiles && fetcher.is_old(); ++ahead) fetcher.fetch(a, lane);
  wait_for_inputs();
  let_next_start();
  for (; ahead < kRingTiles; ++ahead) fetcher.fetch(a, lane);
  Taker<Size> taker{ring, barriers};
  for (int w = blockIdx.x; w < work; w += gridDim.x) {
    current = next;
    next.load(a, w + gridDim.x, work, lane);
    const AttentionItem item = current.item();
    const int kv_head = w % a.pool.kv_heads;
    if (item.sequence.n_rows * a.heads <= kWarpRows / 2 * a.pool.kv_heads)
      one_item<Size, true>(a, item, kv_head, lane, taker, fetcher);
    else
      one_item<Size, false>(a, item, kv_head, lane, taker, fetcher);
  }
}

// ---- many rows ----

constexpr int kBlockThreads = kPrefillRows / kWarpRows * 32;

template <int Size>
__global__ void __launch_bounds__(kBlockThreads, 1) attend_many(AttentionLaunch a) {
  extern __shared__ __align__(256) unsigned char shared[];
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, kv_head = blockIdx.x;
  const AttentionItem item = a.step.many[blockIdx.y];
  const BatchSequence s = item.sequence;
  const Setting<Size> in = setting<Size>(a, s, kv_head);
  const int first_pair = item.first_pair + warp * kWarpRows;
  const PairRow rows[2] = {
      pair_row(s, first_pair + lane / 4, in.group, kv_head, a.heads, a.pool.head_size),
      pair_row(s, first_pair + lane / 4 + 8, in.group, kv_head, a.heads, a.pool.head_size)};
  const int visible[2] = {rows[0].visible, rows[1].visible}, all_see = seen_by_all(rows);
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
      softmax_of_tile<Size>(scores, t * kTileKeys, visible, all_see, a.scale_log2, lane, split, p);
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
  return kRingTiles * (kTileKeys * size * 2 + 8);
}
constexpr int many_shared(int size) {
  return 4 * kTileKeys * size * 2;
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
  return kWarpRows * (stride + 2);
}

cudaError_t prepare_attention() {
  for (const int size : {32, 64, 128}) {
    const cudaError_t error = with_size(size, [](auto constant) {
      constexpr int kSize = decltype(constant)::value;
      const cudaError_t few = cudaFuncSetAttribute(
          attend_few<kSize>, cudaFuncAttributeMaxDynamicSharedMemorySize, few_shared(kSize));
      if (few != cudaSuccess) return few;
      if constexpr (kSize >= 64) {
        const cudaError_t hopper = prepare_attention_hopper(kSize);
        if (hopper != cudaSuccess) return hopper;
      }
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

cudaError_t launch_attention_few(const AttentionLaunch& a, int blocks, cudaStream_t stream) {
  return with_size(a.pool.stride, [&](auto constant) {
    constexpr int kSize = decltype(constant)::value;
    return launch_chained(attend_few<kSize>, static_cast<unsigned>(blocks), 32, few_shared(kSize),
                          stream, a);
  });
}
cudaError_t launch_attention_many(const AttentionLaunch& a, int items, cudaStream_t stream) {
  if (a.wgmma && a.pool.stride >= 64) return launch_attention_hopper(a, items, stream);
  const dim3 grid(static_cast<unsigned>(a.pool.kv_heads), static_cast<unsigned>(items));
  return with_size(a.pool.stride, [&](auto constant) {
    constexpr int kSize = decltype(constant)::value;
    return launch_chained(attend_many<kSize>, grid, kBlockThreads, many_shared(kSize), stream, a);
  });
}

}  // namespace herd::cuda
