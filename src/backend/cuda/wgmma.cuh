// Many rows on Hopper: wgmma with 64 weights' outputs as the A operand, dequantised in registers,
// and up to 128 tokens as the B operand in shared memory. Two warps keep a ring full each, packed
// weights by bulk copies (the first before the launch in front has ended) and activations by tensor
// copies; each of two or four warpgroups owns 64 outputs, dequantises the next 64 inputs while the
// matrix unit works on the last ones, and adds up its chains in registers. When there are too few
// tiles to fill the card, the chains go to the blocks of a cluster instead and are added, in the
// same order, through distributed shared memory.
#pragma once

#include <algorithm>

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/matmul_kernels.cuh"

namespace herd::cuda {
namespace wgmma_detail {

/// Warpgroups that multiply: four hide the latencies of dequantising better, but the registers of
/// many tokens leave room for two.
constexpr int groups_of(int nt) {
  return nt <= 32 ? 4 : 2;
}
constexpr int threads_of(int nt) {
  return 128 * (groups_of(nt) + 1);
}
/// Floats between tokens of a block's sums: free of bank conflicts.
constexpr int sum_stride(int nt) {
  return 64 * groups_of(nt) + 4;
}

struct WgmmaArgs {
  CUtensorMap x;
  Work work;
  int tiles;        // of 64 outputs, over all matrices (SwiGLU: gate and up alternate)
  int token_tiles;  // of NT tokens
  int items;        // pairs of output tiles times token tiles
  int split;        // one chain per block of a cluster
};

constexpr int weight_stage(Layout l, int nt) {
  return groups_of(nt) * 4 * subtile_bytes(l);
}
constexpr int x_stage(int nt) {
  return nt * 128;
}
constexpr int kRoom = 220 * 1024;
/// Bytes beside the rings: barriers, and the sums of some tokens on their way out.
constexpr int kept_tokens(int nt) {
  return nt < 64 ? nt : 64;
}
constexpr int side_bytes(int nt) {
  return 1024 + kept_tokens(nt) * sum_stride(nt) * 4;
}
constexpr int weight_stages(Layout l, int nt) {
  const int left = kRoom - side_bytes(nt) - 4 * x_stage(nt);
  const int fit = left / weight_stage(l, nt) < 2 ? 2 : left / weight_stage(l, nt);
  const int enough = is_k(l) ? (nt == 128 ? 3 : 5) : nt == 128 ? 6 : 10;
  return fit < enough ? fit : enough;
}
constexpr int x_stages(Layout l, int nt) {
  const int fit =
      (kRoom - side_bytes(nt) - weight_stages(l, nt) * weight_stage(l, nt)) / x_stage(nt);
  return fit < 12 ? fit : 12;
}
constexpr int ring_bytes(Layout l, int nt) {
  return weight_stages(l, nt) * weight_stage(l, nt) + x_stages(l, nt) * x_stage(nt);
}
constexpr int shared_size(Layout l, int nt) {
  const int rings = ring_bytes(l, nt), sums = nt * sum_stride(nt) * 4;
  return 1024 + side_bytes(nt) + (rings > sums ? rings : sums);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A place in a ring of Stages barriers: full ones first, empty ones behind.
template <int Stages>
struct Ring {
  unsigned barriers;
  int stage = 0;
  unsigned parity = 0;
  __device__ __forceinline__ unsigned full() const { return barriers + 8 * stage; }
  __device__ __forceinline__ unsigned empty() const { return barriers + 8 * (Stages + stage); }
  __device__ __forceinline__ void advance() {
    if (++stage == Stages) stage = 0, parity ^= 1;
  }
};

struct Place {
  int matrix, tile;  // tile of 64 outputs in that matrix; -1: none
};
__device__ __forceinline__ Place find_tile(const WgmmaArgs& a, int tile) {
  if (tile >= a.tiles) return {0, -1};
  if (a.work.epilogue == Epilogue::SWIGLU_F16) return {tile % 2, tile / 2};
  int m = 0;
  while (tile >= (a.work.matrix[m].n + 63) / 64) {
    tile -= (a.work.matrix[m].n + 63) / 64;
    ++m;
  }
  return {m, tile};
}
/// The input tiles of this block: a chain's if the chains are split over a cluster, else all.
__device__ __forceinline__ ChainRange block_range(const WgmmaArgs& a) {
  return a.split ? chain_range(a.work.k_tiles, a.work.chains, static_cast<int>(cluster_rank()))
                 : ChainRange{0, a.work.k_tiles};
}
__device__ __forceinline__ int first_item(const WgmmaArgs& a) {
  return a.split ? blockIdx.x / a.work.chains : blockIdx.x;
}
__device__ __forceinline__ int item_step(const WgmmaArgs& a) {
  return a.split ? a.items : gridDim.x;
}

/// One warp fetches weights: they are there before the step begins.
template <Layout L, int NT>
__device__ void fetch_weights(const WgmmaArgs& a, unsigned weights, unsigned barriers) {
  constexpr int kBytes = subtile_bytes(L);
  Ring<weight_stages(L, NT)> w{barriers};
  const ChainRange range = block_range(a);
  const int lane = threadIdx.x % 32, strip = lane % (4 * groups_of(NT));
  for (int item = first_item(a); item < a.items; item += item_step(a)) {
    const int pair = item / a.token_tiles;
    Place p = find_tile(a, groups_of(NT) * pair + strip / 4);
    if (p.tile < 0) p = find_tile(a, groups_of(NT) * pair);
    const std::uint8_t* from = a.work.matrix[p.matrix].data +
                               ((4ll * p.tile + strip % 4) * a.work.k_tiles + range.first) * kBytes;
    for (int k = 0; k < range.count; ++k) {
      barrier_wait(w.empty(), w.parity ^ 1);
      if (lane == 0) barrier_expect(w.full(), weight_stage(L, NT));
      __syncwarp();
      if (lane < 4 * groups_of(NT))
        bulk_copy(weights + w.stage * weight_stage(L, NT) + strip * kBytes, from, kBytes, w.full());
      from += kBytes;
      w.advance();
    }
  }
}
/// One thread fetches activations, 64 inputs at a time.
template <Layout L, int NT>
__device__ void fetch_tokens(const WgmmaArgs& a, unsigned tokens, unsigned barriers) {
  Ring<x_stages(L, NT)> x{barriers + 16 * weight_stages(L, NT)};
  const ChainRange range = block_range(a);
  for (int item = first_item(a); item < a.items; item += item_step(a)) {
    const int token0 = item % a.token_tiles * NT;
    for (int part = 0; part < range.count * (tile_k(L) / 64); ++part) {
      barrier_wait(x.empty(), x.parity ^ 1);
      barrier_expect(x.full(), x_stage(NT));
      box_copy(tokens + x.stage * x_stage(NT), &a.x, range.first * tile_k(L) + 64 * part, token0,
               x.full());
      x.advance();
    }
  }
}

/// What a warpgroup knows while it multiplies.
template <Layout L, int NT>
struct Multiplier {
  static constexpr int kParts = tile_k(L) / 64;
  Ring<weight_stages(L, NT)> w;
  Ring<x_stages(L, NT)> x;         // next to multiply
  Ring<x_stages(L, NT)> released;  // next to hand back
  unsigned tokens;
  const std::uint8_t* weights;  // this warp's subtile of stage 0
  Codec<L> codec;
  Bits a[2][4][4];
  float acc[NT / 2], total[NT / 2];

  /// Part Part of the weight tile at hand; the first waits for the tile, the last hands it back.
  template <int Part>
  __device__ __forceinline__ void dequantise(Bits (&to)[4][4]) {
    const int lane = threadIdx.x % 32;
    if (Part == 0) barrier_wait(w.full(), w.parity);
    codec.load(weights + w.stage * weight_stage(L, NT), Part, lane);
#pragma unroll
    for (int s = 0; s < 4; ++s) codec.fragment(s, to[s]);
    if (Part == kParts - 1) {
      __syncwarp();
      if (lane == 0) barrier_arrive(w.empty());
      w.advance();
    }
  }
  __device__ __forceinline__ void release() {
    if (threadIdx.x % 32 == 0) barrier_arrive(released.empty());
    released.advance();
  }
  /// 64 inputs: part Part of a tile, fragments in a[Half]. Makes those of the next part meanwhile.
  template <int Half, int Part>
  __device__ __forceinline__ void step(bool first, bool more) {
    barrier_wait(x.full(), x.parity);
    const std::uint64_t b = descriptor(tokens + x.stage * x_stage(NT));
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s) wgmma(acc, a[Half][s], b + 2 * s, s > 0 || !first);
    wgmma_commit();
    x.advance();
    wgmma_wait<1>();  // the one before is done: its tokens and its fragments are free
    if (!first) release();
    if (more) {
      dequantise<(Part + 1) % kParts>(a[1 - Half]);
    }
  }
  /// Ends a chain.
  __device__ __forceinline__ void add_up(bool first_chain) {
    wgmma_wait<0>();
    release();
#pragma unroll
    for (int i = 0; i < NT / 2; ++i) total[i] = first_chain ? acc[i] : total[i] + acc[i];
  }
};

/// All chains of this block's range for one item.
template <Layout L, int NT>
__device__ __forceinline__ void multiply(const WgmmaArgs& a, Multiplier<L, NT>& m) {
  constexpr int kParts = Multiplier<L, NT>::kParts;
  const int chains = a.split ? 1 : a.work.chains;

  m.template dequantise<0>(m.a[0]);
  for (int chain = 0; chain < chains; ++chain) {
    const int count =
        a.split ? block_range(a).count : chain_range(a.work.k_tiles, a.work.chains, chain).count;
    const bool more_chains = chain + 1 < chains;
    if constexpr (kParts == 4) {
      for (int k = 0; k < count; ++k) {
        m.template step<0, 0>(k == 0, true);
        m.template step<1, 1>(false, true);
        m.template step<0, 2>(false, true);
        m.template step<1, 3>(false, k + 1 < count || more_chains);
      }
    } else {
      for (int k = 0; k < count; k += 2) {
        m.template step<0, 0>(k == 0, k + 1 < count || more_chains);
        if (k + 1 < count) m.template step<1, 0>(false, k + 2 < count || more_chains);
      }
    }
    m.add_up(chain == 0);
    if (kParts == 1 && count % 2 == 1) {  // the next chain's first fragments move over
#pragma unroll
      for (int i = 0; i < 16; ++i) m.a[0][i / 4][i % 4] = m.a[1][i / 4][i % 4];
    }
  }
}

/// Four outputs of one token.
template <int NT>
__device__ __forceinline__ void write_quad(const WgmmaArgs& a, int pair, int quad, int token,
                                           float4 sum) {
  const Work& w = a.work;
  const int group = quad / 16 * (w.epilogue == Epilogue::SWIGLU_F16 ? 2 : 1);
  const Place place = find_tile(a, groups_of(NT) * pair + group);
  if (place.tile < 0 || token >= w.rows) return;
  const Work::Matrix& m = w.matrix[place.matrix];
  const int n = 64 * place.tile + 4 * (quad % 16);
  const long long at = static_cast<long long>(token) * m.stride + n;
  if (n + 4 <= m.n && m.stride % 4 == 0) {
    if (w.epilogue == Epilogue::F32 || w.epilogue == Epilogue::F32_ADD) {
      float4* out = reinterpret_cast<float4*>(static_cast<float*>(m.out) + at);
      if (w.epilogue == Epilogue::F32_ADD) {
        const float4 old = *out;
        sum.x = old.x + sum.x, sum.y = old.y + sum.y, sum.z = old.z + sum.z, sum.w = old.w + sum.w;
      }
      *out = sum;
    } else {
      const uint2 halves = {as_bits(__floats2half2_rn(sum.x, sum.y)),
                            as_bits(__floats2half2_rn(sum.z, sum.w))};
      *reinterpret_cast<uint2*>(static_cast<__half*>(m.out) + at) = halves;
    }
    return;
  }
  const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (n + j < m.n) store(w.epilogue, m.out, at + j, values[j]);
}
/// Tokens [first, first + count) of an item from sums[token - first_kept][128 outputs], of this
/// block or, if the chains are split, of all blocks of the cluster in order.
template <int NT>
__device__ __forceinline__ void write_tokens(const WgmmaArgs& a, int pair, int token0, int first,
                                             int count, const float* sums) {
  const bool swiglu = a.work.epilogue == Epilogue::SWIGLU_F16;
  const int quads = 16 * groups_of(NT) / (swiglu ? 2 : 1);
#pragma unroll 2
  for (int i = threadIdx.x - 128; i < count * quads; i += 128 * groups_of(NT)) {
    const int token = first + i / quads, quad = i % quads;
    // SwiGLU: gate and up alternate, 64 outputs each.
    const float* at = sums + token * sum_stride(NT) + 4 * quad + (swiglu ? quad / 16 * 64 : 0);
    const auto add_up = [&](const float* from) {
      if (!a.split) return *reinterpret_cast<const float4*>(from);
      const unsigned address = shared_address(from);
      float4 v[kMostChains];  // all on their way before the first is added
#pragma unroll
      for (int c = 0; c < kMostChains; ++c)
        if (c < a.work.chains) v[c] = remote_float4(address, c);
      float4 sum = v[0];
#pragma unroll
      for (int c = 1; c < kMostChains; ++c) {
        if (c >= a.work.chains) break;
        sum.x += v[c].x, sum.y += v[c].y, sum.z += v[c].z, sum.w += v[c].w;
      }
      return sum;
    };
    float4 sum = add_up(at);
    if (swiglu) {
      const float4 up = add_up(at + 64);
      sum.x = silu(sum.x) * up.x, sum.y = silu(sum.y) * up.y;
      sum.z = silu(sum.z) * up.z, sum.w = silu(sum.w) * up.w;
    }
    write_quad<NT>(a, pair, quad, token0 + token, sum);
  }
}
/// The sums of tokens [8 First, 8 End) to shared memory, token by token. Little code, so that it
/// stays in the instruction cache; the loop that writes them out is rolled up.
template <int First, int End, int NT>
__device__ __forceinline__ void put_sums(float* sums, int group, const float (&total)[NT / 2]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  float* at = sums + 2 * (lane % 4) * sum_stride(NT) + 64 * group + 16 * warp + lane / 4;
#pragma unroll
  for (int j = First; j < End; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      at[(8 * (j - First) + i % 2) * sum_stride(NT) + 8 * (i / 2)] = total[4 * j + i];
  }
}
template <int NT>
__device__ __forceinline__ void multipliers_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(128 * groups_of(NT)) : "memory");
}
/// An item's sums to their matrices. `side` holds kKept tokens; in a split block the rings, drained
/// by then, hold all of them.
template <int NT>
__device__ __forceinline__ void write_item(const WgmmaArgs& a, int pair, int group, int token0,
                                           float* side, float* rings,
                                           const float (&total)[NT / 2]) {
  if (a.split) {
    multipliers_barrier<NT>();
    put_sums<0, NT / 8, NT>(rings, group, total);
    cluster_barrier();
    const int share = NT / a.work.chains;
    write_tokens<NT>(a, pair, token0, static_cast<int>(cluster_rank()) * share, share, rings);
    return;
  }
  constexpr int kKept = kept_tokens(NT);
  multipliers_barrier<NT>();  // the last item's sums have been written
  put_sums<0, kKept / 8, NT>(side, group, total);
  multipliers_barrier<NT>();
  write_tokens<NT>(a, pair, token0, 0, kKept, side);
  if constexpr (kKept < NT) {
    multipliers_barrier<NT>();
    put_sums<kKept / 8, NT / 8, NT>(side, group, total);
    multipliers_barrier<NT>();
    write_tokens<NT>(a, pair, token0 + kKept, 0, kKept, side);
  }
}

template <Layout L, int NT>
__device__ __forceinline__ void consume(const WgmmaArgs& a, const std::uint8_t* weights,
                                        unsigned tokens, unsigned barriers, float* side,
                                        float* rings) {
  const int group = static_cast<int>(threadIdx.x / 128) - 1, warp = threadIdx.x / 32 % 4;
  Multiplier<L, NT> m;
  m.w.barriers = barriers;
  m.x.barriers = m.released.barriers = barriers + 16 * weight_stages(L, NT);
  m.tokens = tokens;
  m.weights = weights + (4 * group + warp) * subtile_bytes(L);
#pragma unroll 1
  for (int item = first_item(a); item < a.items; item += item_step(a)) {
    multiply(a, m);
    if (a.work.turn != Turn::other) wait_for_inputs();
    write_item<NT>(a, item / a.token_tiles, group, item % a.token_tiles * NT, side, rings, m.total);
  }
}
#endif  // sm_90a

template <Layout L, int NT>
__global__ void __launch_bounds__(threads_of(NT), 1)
    wgmma_kernel(const __grid_constant__ WgmmaArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kWeightStages = weight_stages(L, NT), kXStages = x_stages(L, NT);
  extern __shared__ std::uint8_t raw[];
  std::uint8_t* smem = raw + (1024 - shared_address(raw) % 1024) % 1024;
  float* side = reinterpret_cast<float*>(smem + shared_size(L, NT) - 1024 - side_bytes(NT));
  const unsigned barriers = shared_address(side) + side_bytes(NT) - 1024;
  // Tokens first: their swizzle wants 1,024-byte alignment. The sums of a split may cover both
  // rings.
  const unsigned tokens = shared_address(smem);
  std::uint8_t* weights = smem + kXStages * x_stage(NT);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWeightStages; ++i) {
      barrier_init(barriers + 8 * i, 1);
      barrier_init(barriers + 8 * (kWeightStages + i), 4 * groups_of(NT));
    }
    for (int i = 0; i < kXStages; ++i) {
      barrier_init(barriers + 16 * kWeightStages + 8 * i, 1);
      barrier_init(barriers + 16 * kWeightStages + 8 * (kXStages + i), 4 * groups_of(NT));
    }
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
  }
  __syncthreads();
  if (a.work.turn != Turn::first) let_next_start();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(groups_of(NT) == 2 ? 40 : 32));
    if (threadIdx.x < 32) {
      fetch_weights<L, NT>(a, shared_address(weights), barriers);
    } else if (threadIdx.x == 32) {
      if (a.work.turn != Turn::other) wait_for_inputs();
      if (a.work.turn == Turn::first) let_next_start();
      fetch_tokens<L, NT>(a, tokens, barriers);
      if (a.work.turn == Turn::other) wait_for_inputs();
    }
    if (a.split) {
      __syncwarp();
      cluster_barrier();
      cluster_barrier();
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(groups_of(NT) == 2 ? 232 : 112));
    consume<L, NT>(a, weights, tokens, barriers, side, reinterpret_cast<float*>(smem));
    if (a.split) cluster_barrier();  // no block leaves while others read its sums
  }
#endif
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// The driver's function, without linking the driver.
inline cudaError_t find_encode(EncodeTiled& encode) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                             12000, cudaEnableDefault, &result);
  if (error != cudaSuccess) return error;
  if (result != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  encode = reinterpret_cast<EncodeTiled>(found);
  return cudaSuccess;
}
inline cudaError_t map_tokens(CUtensorMap& map, const Work& w, int nt) {
  EncodeTiled encode = nullptr;
  const cudaError_t error = find_encode(encode);
  if (error != cudaSuccess) return error;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(w.columns), static_cast<cuuint64_t>(w.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(w.columns) * 2};
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(nt)}, steps[2] = {1, 1};
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<__half*>(w.x), sizes, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// Whether to give each chain a block of its own. Costs in inputs per block, fitted to
/// measurements: about 700 for a block to start and to end, twice that for a cluster to add up.
/// Split items make many short blocks, so their last wave costs only its share.
inline bool split_pays(const Work& work, int items, int multiprocessors) {
  const long long waves = (items + multiprocessors - 1) / multiprocessors;
  const long long blocks = std::max<long long>(1ll * items * work.chains, multiprocessors);
  const long long whole = waves * (work.columns + 100);
  const long long split = blocks * (work.columns / work.chains + 700) / multiprocessors + 1400;
  return work.chains > 1 && split < whole;
}

template <Layout L, int NT>
cudaError_t launch(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  WgmmaArgs a{};
  a.work = work;
  for (int m = 0; m < work.n_matrices; ++m) a.tiles += (work.matrix[m].n + 63) / 64;
  a.token_tiles = (work.rows + NT - 1) / NT;
  a.items = (a.tiles + groups_of(NT) - 1) / groups_of(NT) * a.token_tiles;
  a.split = split_pays(work, a.items, device.multiprocessors);
  cudaError_t error = map_tokens(a.x, work, NT);
  if (error != cudaSuccess) return error;
  constexpr int kBytes = shared_size(L, NT);
  error = cudaFuncSetAttribute(wgmma_kernel<L, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = a.split ? a.items * work.chains : std::min(a.items, device.multiprocessors);
  config.blockDim = threads_of(NT);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = work.chains;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  config.attrs = attributes;
  config.numAttrs = a.split ? 2 : 1;
  return cudaLaunchKernelEx(&config, wgmma_kernel<L, NT>, a);
}

}  // namespace wgmma_detail

template <Layout L>
cudaError_t wgmma_matmul(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  if (work.rows <= 32) return wgmma_detail::launch<L, 32>(work, device, stream);
  if (work.rows <= 64) return wgmma_detail::launch<L, 64>(work, device, stream);
  return wgmma_detail::launch<L, 128>(work, device, stream);
}

}  // namespace herd::cuda
