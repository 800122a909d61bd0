// Few rows: every warp streams its own 16 outputs through registers into mma.sync (compute
// capability 8.0 and up), the activations wait in shared memory. A block stays on its
// multiprocessor and walks over a contiguous run of output tiles; the chains of a tile are warps
// side by side, added in order through shared memory.
#include <algorithm>

#include "backend/cuda/matmul_kernels.cuh"

namespace herd::cuda {
namespace {

constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kRedStride = 20;  // floats between tokens of a warp's sums: free of bank conflicts

/// Subtiles in flight per warp: enough bytes to keep memory busy, few enough registers.
constexpr int depth_of(Layout l) {
  if (is_k(l)) return 2;
  return l == Layout::F16 || l == Layout::Q8 ? 4 : 8;
}

struct StreamArgs {
  Work work;
  int tiles;        // of 16 outputs, over all matrices (SwiGLU: of one)
  int phase_tiles;  // input tiles of a chain that stand in shared memory at a time
  int phases;
  int tokens;  // in shared memory: NT, or all rows if there are fewer
};

__device__ __forceinline__ void mma16816(float (&d)[4], const Bits (&a)[4], Bits b0, Bits b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void ldmatrix4(Bits (&b)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(at));
}
__device__ __forceinline__ void copy16(unsigned to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

/// Activations of one phase: [chain][token][phase inputs + 8]; zero past the last input. Only the
/// tokens there are.
template <int NT, int kTileK>
__device__ void stage_activations(const StreamArgs& a, unsigned smem, int phase, int token0) {
  const Work& w = a.work;
  const int length = a.phase_tiles * kTileK, pieces = length / 8;
  for (int chain = 0; chain < w.chains; ++chain) {
    const int k0 = (chain_range(w.k_tiles, w.chains, chain).first + phase * a.phase_tiles) * kTileK;
    for (int i = threadIdx.x; i < a.tokens * pieces; i += kThreads) {
      const int token = i / pieces, piece = i % pieces, k = k0 + 8 * piece;
      const bool valid = token0 + token < w.rows && k < w.columns;
      const __half* from =
          valid ? w.x + static_cast<long long>(token0 + token) * w.columns + k : w.x;
      copy16(smem + ((chain * a.tokens + token) * (length + 8) + 8 * piece) * 2, from, valid);
    }
  }
  asm volatile("cp.async.wait_all;");
}

/// One subtile times the activations: tile_k inputs of 16 outputs for NT tokens. x_at holds this
/// lane's ldmatrix row for each 8 tokens. Words that are done with are fetched again from `next`.
template <Layout L, int NT>
__device__ __forceinline__ void multiply(Codec<L>& codec, const unsigned (&x_at)[NT / 8],
                                         unsigned x_offset, float (&acc)[NT / 8][4],
                                         const FromGlobal& from, const std::uint8_t* next,
                                         int lane) {
#pragma unroll
  for (int pair = 0; pair < tile_k(L) / 32; ++pair) {
    Bits a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) codec.fragment(2 * pair + i, a[i]);
#pragma unroll
    for (int n = 0; n < NT / 8; ++n) {
      Bits b[4];
      ldmatrix4(b, x_at[n] + x_offset + 64 * pair);
      mma16816(acc[n], a[0], b[0], b[1]);
      mma16816(acc[n], a[1], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) codec.reload(2 * pair + i, from, next, lane);
  }
}

/// Where a warp works: which matrix's tile, which chain.
struct Place {
  const Work::Matrix* matrix;
  int tile;  // of 16 outputs, in that matrix
};
__device__ __forceinline__ Place find_tile(const Work& w, int tile, int pair) {
  if (w.epilogue == Epilogue::SWIGLU_F16) return {&w.matrix[pair], tile};
  int m = 0;
  while (m + 1 < w.n_matrices && tile >= (w.matrix[m].n + 15) / 16) {
    tile -= (w.matrix[m].n + 15) / 16;
    ++m;
  }
  return {&w.matrix[m], tile};
}

/// Adds the chains of a slot's tile in order and writes the outputs.
template <int NT>
__device__ void finish(const Work& w, const Place& place, const float* red, int thread, int threads,
                       int token0) {
  const int chain_floats = NT * kRedStride;
  const bool swiglu = w.epilogue == Epilogue::SWIGLU_F16;
  for (int i = thread; i < 16 * NT; i += threads) {
    const int token = i / 16, n = 16 * place.tile + i % 16;
    if (token0 + token >= w.rows || n >= place.matrix->n) continue;
    const float* at = red + token * kRedStride + i % 16;
    float sum = at[0];
    for (int c = 1; c < w.chains; ++c) sum += at[c * chain_floats];
    if (swiglu) {
      const float* up_at = at + w.chains * chain_floats;
      float up = up_at[0];
      for (int c = 1; c < w.chains; ++c) up += up_at[c * chain_floats];
      sum = silu(sum) * up;
    }
    const Work::Matrix& m = swiglu ? w.matrix[0] : *place.matrix;
    store(w.epilogue, m.out, static_cast<long long>(token0 + token) * m.stride + n, sum);
  }
}

/// grid: (blocks that share the tiles, groups of NT tokens).
template <Layout L, int NT>
__global__ void __launch_bounds__(kThreads, 1) stream_kernel(const __grid_constant__ StreamArgs a) {
  constexpr int kTileK = tile_k(L), kDepth = depth_of(L);
  extern __shared__ __align__(128) std::uint8_t smem[];
  const Work& w = a.work;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token0 = NT * blockIdx.y;
  const int slot_warps = w.chains * (w.epilogue == Epilogue::SWIGLU_F16 ? 2 : 1);
  const int slots = kWarps / slot_warps, slot = warp / slot_warps;
  const int chain = warp % slot_warps % w.chains, pair = warp % slot_warps / w.chains;
  const ChainRange range = chain_range(w.k_tiles, w.chains, chain);

  float* red = reinterpret_cast<float*>(smem);
  const unsigned x_smem = shared_address(smem) + kWarps * NT * kRedStride * 4;
  const int token_bytes = (a.phase_tiles * kTileK + 8) * 2;
  unsigned x_at[NT / 8];  // tokens that are not there read the last one; no one reads their sums
#pragma unroll
  for (int n = 0; n < NT / 8; ++n)
    x_at[n] = x_smem + (chain * a.tokens + min(8 * n + lane % 8, a.tokens - 1)) * token_bytes +
              lane / 8 * 16;

  const int first = static_cast<int>(static_cast<long long>(a.tiles) * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(static_cast<long long>(a.tiles) * (blockIdx.x + 1) / gridDim.x);
  const int rounds = (end - first + slots - 1) / slots;
  const auto data_of = [&](int tile) {
    const Place p = find_tile(w, tile, pair);
    return p.matrix->data +
           (4ll * (p.tile / 4 * static_cast<long long>(w.k_tiles) + range.first) + p.tile % 4) *
               subtile_bytes(L);
  };
  constexpr int kStep = 4 * subtile_bytes(L);
  // Whole turns of the ring per chain: the next tile's words can follow without a gap.
  const bool seamless = range.count % kDepth == 0;
  Codec<L> codec[kDepth];
  for (int round = 0; round < rounds; ++round) {
    const int tile = first + round * slots + slot;
    const bool active = tile < end;
    const int count = active ? range.count : 0;
    const bool follows = seamless && tile + slots < end;
    const std::uint8_t* at = data_of(active ? tile : first);
    const std::uint8_t* after =
        follows ? data_of(tile + slots) - static_cast<long long>(count) * kStep : at;
    if (round == 0 || !seamless) {
#pragma unroll
      for (int j = 0; j < kDepth; ++j)
        load_all(codec[j], FromGlobal{j < count}, at + j * kStep, lane);
    }

    float acc[NT / 8][4] = {};
    for (int phase = 0; phase < a.phases; ++phase) {
      if (a.phases > 1 || round == 0) {
        if (phase > 0 || round > 0) __syncthreads();
        stage_activations<NT, kTileK>(a, x_smem, phase, token0);
        __syncthreads();
      }
      const int start = phase * a.phase_tiles, stop = min(count, start + a.phase_tiles);
      const int limit = follows ? count + kDepth : count;
      const auto step = [&](int k, int j) {  // k + j: the subtile in codec[j]
        const int next = k + j + kDepth;
        multiply<L, NT>(codec[j], x_at, (k + j - start) * (kTileK * 2), acc,
                        FromGlobal{next < limit},
                        (next < count ? at : after) + static_cast<long long>(next) * kStep, lane);
      };
      int k = start;
      for (; k + kDepth <= stop; k += kDepth) {
#pragma unroll
        for (int j = 0; j < kDepth; ++j) step(k, j);
      }
      if (k < stop) {
#pragma unroll
        for (int j = 0; j < kDepth; ++j)
          if (k + j < stop) step(k, j);
      }
    }
    if (!active) continue;  // no barrier of all threads below
    float* mine = red + warp * NT * kRedStride;
    const int r = lane / 4, c = lane % 4;
#pragma unroll
    for (int n = 0; n < NT / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        mine[(8 * n + 2 * c + i % 2) * kRedStride + r + 8 * (i / 2)] = acc[n][i];
    }
    const auto slot_barrier = [&] {
      if (slot_warps == 1) {
        __syncwarp();
      } else {
        asm volatile("bar.sync %0, %1;" ::"r"(1 + slot), "r"(32 * slot_warps) : "memory");
      }
    };
    slot_barrier();
    finish<NT>(w, find_tile(w, tile, 0), red + slot * slot_warps * NT * kRedStride,
               threadIdx.x - 32 * slot * slot_warps, 32 * slot_warps, token0);
    slot_barrier();
  }
}

template <Layout L, int NT>
cudaError_t launch(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  StreamArgs a{work, 0, 0, 1, std::min(NT, work.rows)};
  for (int m = 0; m < work.n_matrices; ++m) {
    if (work.epilogue != Epilogue::SWIGLU_F16 || m == 0) a.tiles += (work.matrix[m].n + 15) / 16;
  }
  constexpr int kDepth = depth_of(L);
  const int red_bytes = kWarps * NT * kRedStride * 4;
  const int room = std::min(device.shared_bytes, 224 * 1024) - red_bytes;
  const int longest = chain_range(work.k_tiles, work.chains, 0).count;
  const auto x_bytes = [&](int tiles) {
    return work.chains * a.tokens * (tiles * tile_k(L) + 8) * 2;
  };
  a.phase_tiles = longest;
  while (x_bytes(a.phase_tiles) > room) {
    ++a.phases;
    a.phase_tiles = (longest + a.phases - 1) / a.phases;
    a.phase_tiles = (a.phase_tiles + kDepth - 1) / kDepth * kDepth;
    if (a.phases > longest) return cudaErrorInvalidValue;
  }
  const int bytes = red_bytes + x_bytes(a.phase_tiles);
  const cudaError_t error = cudaFuncSetAttribute(
      stream_kernel<L, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(std::min(device.multiprocessors, a.tiles), (work.rows + NT - 1) / NT);
  stream_kernel<L, NT><<<grid, kThreads, bytes, stream>>>(a);
  return cudaGetLastError();
}

template <Layout L>
cudaError_t launch_rows(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  if (work.rows <= 8) return launch<L, 8>(work, device, stream);
  if (work.rows <= 16) return launch<L, 16>(work, device, stream);
  return launch<L, 32>(work, device, stream);
}

}  // namespace

cudaError_t stream_matmul(Layout layout, const Work& work, const DeviceLimits& device,
                          cudaStream_t stream) {
  switch (layout) {
#define HERD_LAYOUT(L) \
  case Layout::L: return launch_rows<Layout::L>(work, device, stream);
    HERD_LAYOUT(F16)
    HERD_LAYOUT(Q8)
    HERD_LAYOUT(Q4) HERD_LAYOUT(Q4M) HERD_LAYOUT(Q5) HERD_LAYOUT(Q5M) HERD_LAYOUT(K4)
        HERD_LAYOUT(K5) HERD_LAYOUT(K6) HERD_LAYOUT(K2) HERD_LAYOUT(K8)
#undef HERD_LAYOUT
  }
  return cudaErrorInvalidValue;
}

}  // namespace herd::cuda
