// Attention of many rows on Hopper: a warp keeps a ring of tiles full, two warpgroups of 64 pairs
// each multiply with wgmma. The steps of a tile, and so the bits, are attention_tile.cuh's: the
// matrix unit sums 16 inputs after the other, whichever instruction asks it to.
#include "backend/cuda/attention_tile.cuh"
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

constexpr int kGroups = kPrefillRows / 64, kThreads = 128 * (kGroups + 1);
constexpr int kSplitTiles = kSplitKeys / kTileKeys;
static_assert(kSplitTiles == 2);
constexpr int kRing = 6;  // tiles: keys, values, keys, ...

constexpr int tile_bytes(int size) {
  return kTileKeys * size * 2;
}
constexpr int shared_size(int size) {
  return 1024 + kRing * (tile_bytes(size) + 16);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A tile as wgmma takes it: [piece of 64 components][64 positions][64]. The pool has the pieces of
/// 32 positions together.
constexpr int kPieceBytes = kTileKeys * 128, kRunBytes = kRunKeys * 128;

/// What all threads of a block know.
struct Block {
  AttentionItem item;
  int kv_head, group, n_tiles;
  unsigned ring, barriers;

  /// Keys that pair `pair` sees, or the last pair of all.
  __device__ int keys_of(int pair) const {
    const BatchSequence& s = item.sequence;
    return s.kv_length - s.n_rows + min(s.n_rows - 1, pair / group) + 1;
  }
};

/// One warp. Rows that are not there become zeros where they are values: their weights are zero,
/// but what stood in the page may be no number.
template <int Size>
__device__ void fetch_tiles(const AttentionLaunch& a, const Block& b, int lane) {
  constexpr int kPieces = Size / 64;
  const BatchSequence& s = b.item.sequence;
  const LayerPool& pool = a.pool;
  Ring<kRing> to{b.barriers};
  std::int32_t page = 0;  // lane i: of run 32 n + i
  for (int t = 0; t < b.n_tiles; ++t) {
    const int run = 2 * t + lane / kPieces, piece = lane % kPieces;  // lanes below 2 kPieces copy
    if (2 * t % 32 == 0 && (2 * t + lane) * kRunKeys < s.kv_length)
      page = __ldg(a.step.block_table + s.first_page + (2 * t + lane) * kRunKeys / pool.page_size);
    const std::int64_t at = __shfl_sync(0xffffffffu, page, run % 32);
    const std::int64_t from = (at * pool.kv_heads + b.kv_head) * pool.page_size * Size +
                              run * kRunKeys % pool.page_size * Size + piece * kRunBytes / 2;
    const int rows = min(kTileKeys, s.kv_length - t * kTileKeys);
    const int run_rows = min(kRunKeys, s.kv_length - run * kRunKeys);
    for (const __half* values : {pool.keys, pool.values}) {
      const unsigned tile = b.ring + to.stage * tile_bytes(Size);
      barrier_wait(to.empty(), to.parity ^ 1);
      if (values == pool.values && rows < kTileKeys) {
        for (int i = lane; i < (kTileKeys - rows) * 8 * kPieces; i += 32)
          asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                           tile + i % kPieces * kPieceBytes + rows * 128 + i / kPieces * 16),
                       "r"(0)
                       : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncwarp();
      }
      if (lane == 0) barrier_expect(to.full(), rows * Size * 2);
      __syncwarp();
      if (lane < 2 * kPieces && run_rows > 0)
        bulk_copy(tile + piece * kPieceBytes + (run - 2 * t) * kRunBytes, values + from,
                  run_rows * 128, to.full());
      to.advance();
    }
  }
}

/// What a warp holds: 16 pairs, of the 64 of its warpgroup.
template <int Size>
struct Warp {
  std::uint32_t q[Size / 16][4], p[4][4];
  float scores[8][4];
  Span<Size> split, total;
};

template <int N>
__device__ __forceinline__ float (&flat(float (&x)[N][4]))[4 * N] {
  return reinterpret_cast<float(&)[4 * N]>(x);
}

template <int Size>
__device__ __forceinline__ void ask_scores(Warp<Size>& w, unsigned keys) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < Size / 16; ++k)
    wgmma(flat(w.scores), w.q[k], descriptor(keys + k / 4 * kPieceBytes) + k % 4 * 2, k > 0);
  wgmma_commit();
}
template <int Size>
__device__ __forceinline__ void ask_values(Warp<Size>& w, unsigned values) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k)
    wgmma<1>(flat(w.split.o), w.p[k], descriptor(values + k * 16 * 128, kPieceBytes), 1);
  wgmma_commit();
}

/// One warpgroup: 64 pairs from `first` on.
template <int Size>
__device__ void attend(const AttentionLaunch& a, const Block& b, int first, std::uint32_t zero) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const BatchSequence& s = b.item.sequence;
  const int pair = first + warp * kWarpRows + lane / 4;
  const PairRow rows[2] = {pair_row(s, pair, b.group, b.kv_head, a.heads, a.pool.head_size),
                           pair_row(s, pair + 8, b.group, b.kv_head, a.heads, a.pool.head_size)};
  const int visible[2] = {rows[0].visible, rows[1].visible}, all_see = seen_by_all(rows);
  const int n_tiles = first / b.group < s.n_rows ? (b.keys_of(first + 63) - 1) / kTileKeys + 1 : 0;
  Warp<Size> w;
  load_queries<Size>(a.q, rows, a.pool.head_size, lane, w.q);
  // A product must not take registers straight from a load: it does not wait for their data.
  for (auto& step : w.q)
    for (std::uint32_t& x : step) asm volatile("xor.b32 %0, %0, %1;" : "+r"(x) : "r"(zero));
  w.split.clear(), w.total.clear();
  Ring<kRing> taken{b.barriers}, released{b.barriers};
  const auto take = [&] {
    barrier_wait(taken.full(), taken.parity);
    const unsigned tile = b.ring + taken.stage * tile_bytes(Size);
    taken.advance();
    return tile;
  };
  const auto release = [&] {
    if (lane == 0) barrier_arrive(released.empty());
    released.advance();
  };
  const auto weigh = [&](int t) {
    wgmma_wait<0>();
    release();  // the keys
    softmax_of_tile<Size>(w.scores, t * kTileKeys, visible, all_see, a.scale_log2, lane, w.split,
                          w.p);
    ask_values(w, take());
  };
  const auto end_split = [&] {
    finish_split(w.split);
    fold(w.total, w.split);
    w.split.clear();
  };
  // A tile that is not the last: the scores of the next are on their way when it ends.
  const auto tile = [&](int t) {
    weigh(t);
    ask_scores(w, take());
    wgmma_wait<1>();
    release();  // the values
  };
  if (n_tiles > 0) {
    ask_scores(w, take());
    int t = 0;
#pragma unroll 1
    for (; t + kSplitTiles < n_tiles; t += kSplitTiles) {  // ends splits in no branch: the products
#pragma unroll
      for (int i = 0; i < kSplitTiles; ++i) tile(t + i);  // would wait for each other
      end_split();
    }
    if (t + 1 < n_tiles) tile(t++);
    weigh(t);
    wgmma_wait<0>();
    release();
    end_split();
    store_rows(w.total, rows, a.pool.head_size, lane, a.out);
  }
  for (int t = 2 * n_tiles; t < 2 * b.n_tiles; ++t) take(), release();  // for the other warpgroup
}

#endif  // sm_90a

template <int Size>
__global__ void __launch_bounds__(kThreads, 1)
    attend_many(const __grid_constant__ AttentionLaunch a, std::uint32_t zero) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ unsigned char raw[];
  let_next_start();
  Block b;
  b.item = a.step.many[blockIdx.y];
  b.kv_head = blockIdx.x, b.group = a.heads / a.pool.kv_heads;
  b.n_tiles = (b.keys_of(b.item.first_pair + kPrefillRows - 1) - 1) / kTileKeys + 1;
  b.ring = (shared_address(raw) + 1023) / 1024 * 1024;
  b.barriers = b.ring + kRing * tile_bytes(Size);
  if (threadIdx.x < 2 * kRing)  // one says what it copies; every multiplying warp hands back
    barrier_init(b.barriers + 8 * threadIdx.x, threadIdx.x < kRing ? 1 : 4 * kGroups);
  publish_barriers();
  __syncthreads();
  wait_for_inputs();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x < 32) fetch_tiles<Size>(a, b, threadIdx.x);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    // Told to the compiler as the same for all of a warp: products may stand in no branch else.
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1;
    attend<Size>(a, b, b.item.first_pair + 64 * group, zero);
  }
#endif
}

template <class Body>
cudaError_t with_kernel(int stride, Body&& body) {
  if (stride == 64) return body(attend_many<64>);
  if (stride == 128) return body(attend_many<128>);
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t prepare_attention_hopper(int stride) {
  return with_kernel(stride, [&](auto kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared_size(stride));
  });
}
cudaError_t launch_attention_hopper(const AttentionLaunch& a, int items, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(a.pool.kv_heads), static_cast<unsigned>(items));
  return with_kernel(a.pool.stride, [&](auto kernel) {
    return launch_chained(kernel, grid, kThreads, shared_size(a.pool.stride), stream, a, 0u);
  });
}

}  // namespace herd::cuda
