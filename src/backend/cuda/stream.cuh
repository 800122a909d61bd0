// Few rows: every warp multiplies its own 16 outputs with mma.sync (compute capability 8.0 and up).
// Packed weights come through a ring in shared memory that each warp keeps full for itself, without
// any barrier among warps; the activations stay in shared memory. A block stays on its
// multiprocessor and walks over a contiguous run of output tiles; the chains of a tile are warps
// side by side, added in order through shared memory. Where activations do not fit, two blocks of a
// cluster take half of the chains each. The loop is kept small on purpose: at a few microseconds
// per launch, fetching unrolled code costs more than it saves.
#pragma once

#include <algorithm>
#include <climits>

#include "backend/cuda/matmul_kernels.cuh"

namespace herd::cuda {
namespace stream_detail {

constexpr int kWarps = 16, kThreads = 32 * kWarps;

constexpr int kRedStride = 20;  // floats between tokens of a warp's sums: free of bank conflicts

struct StreamArgs {
  Work work;
  int tiles;        // of 16 outputs, over all matrices (SwiGLU: of one)
  int stages;       // in a warp's ring, each 256 inputs at most
  int phase_tiles;  // input tiles of a chain that stand in shared memory at a time
  int phases;
  int tokens;  // in shared memory: NT, or all rows if there are fewer
  int blocks;  // of a cluster that share the chains: 1 or 2
  int chains;  // of a block
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
/// `bytes` on their way to shared memory; `barrier` completes when they are there.
__device__ __forceinline__ void fetch(unsigned to, const std::uint8_t* from, int bytes,
                                      unsigned barrier, int lane) {
  announce(barrier, bytes, lane);
  copy_run(to, from, bytes, barrier, lane);
  copied(barrier);
}
/// Activations of one phase: [chain][token][phase inputs + 8]; zero past the last input. Only the
/// tokens there are.
template <int kTileK>
__device__ void stage_activations(const StreamArgs& a, unsigned smem, int first_chain, int phase,
                                  int token0) {
  const Work& w = a.work;
  const int length = a.phase_tiles * kTileK, warp = threadIdx.x / 32;
#pragma unroll 1
  for (int row = warp; row < a.chains * a.tokens; row += kWarps) {
    const int chain = first_chain + row / a.tokens, token = token0 + row % a.tokens;
    const int k0 = (chain_range(w.k_tiles, w.chains, chain).first + phase * a.phase_tiles) * kTileK;
    const __half* from = w.x + static_cast<long long>(token) * w.columns + k0;
    const int there = token < w.rows ? w.columns - k0 : 0;
    const unsigned to = smem + row * (length + 8) * 2;
#pragma unroll 1
    for (int k = 8 * (threadIdx.x % 32); k < length; k += 256)
      copy_16(to + 2 * k, k < there ? from + k : w.x, k < there);
  }
}

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
#pragma unroll 1
  for (int i = thread; i < 16 * NT; i += threads) {
    const int token = i / 16, n = 16 * place.tile + i % 16;
    if (token0 + token >= w.rows || n >= place.matrix->n) continue;
    const float* at = red + token * kRedStride + i % 16;
    float sum = *at;
#pragma unroll 1
    for (int c = 1; c < w.chains; ++c) sum += *(at += chain_floats);
    if (swiglu) {
      float up = *(at += chain_floats);
#pragma unroll 1
      for (int c = 1; c < w.chains; ++c) up += *(at += chain_floats);
      sum = silu(sum) * up;
    }
    const Work::Matrix& m = swiglu ? w.matrix[0] : *place.matrix;
    store(w.epilogue, m.out, static_cast<long long>(token0 + token) * m.stride + n, sum);
  }
}

/// Input tiles in a stage: two kilobytes or more, at most 256 inputs. What memory alone holds back
/// comes in copies of four: it delivers them faster.
constexpr int group_of(Layout l) {
  return is_k(l) ? 1 : l == Layout::F16 || l == Layout::Q8 ? 2 : 4;
}
constexpr int stage_bytes(Layout l) {
  return group_of(l) * subtile_bytes(l);
}
/// Stages that a warp asks for before its inputs are there: four kilobytes. More would delay the
/// inputs, and the kernels that they come from.
constexpr int early_stages(Layout l) {
  return (4096 + stage_bytes(l) - 1) / stage_bytes(l);
}

/// Bytes a warp's ring takes at most. Short products gain when the next launch's block finds room
/// beside this one and starts to fetch its weights; long ones from more bytes on their way.
constexpr int ring_bytes(Layout l) {
  return (l == Layout::F16 ? 12 : l == Layout::Q8 ? 10 : 5) * 1024;
}

/// A warp's ring of stages, and what comes next: all of its chain of output tile after output tile.
template <Layout L>
struct WeightRing {
  static constexpr int kBytes = subtile_bytes(L), kStage = stage_bytes(L);
  unsigned data, barriers;  // of the ring
  int stages, slots, end;
  ChainRange range;
  const std::uint8_t* from;  // next to fetch
  int tile, left;            // its tile, and how many of that tile's chain are to come
  int fill = 0, take = 0;    // stages
  unsigned parity = 0;       // of take

  __device__ __forceinline__ void start_tile(const Work& w, int pair) {
    const Place p = find_tile(w, tile, pair);
    from = p.matrix->data + (static_cast<long long>(p.tile) * w.k_tiles + range.first) * kBytes;
    left = range.count;
  }
  __device__ __forceinline__ void fetch_next(const Work& w, int pair, int lane) {
    if (tile >= end) return;
    const int bytes = min(left, group_of(L)) * kBytes;
    fetch(data + fill * kStage, from, bytes, barriers + 8 * fill, lane);
    from += bytes;
    if (++fill == stages) fill = 0;
    if ((left -= group_of(L)) <= 0) {
      tile += slots;
      if (tile < end) start_tile(w, pair);
    }
  }
};

/// Parts whose instructions are mixed to hide latencies.
constexpr int unroll_of(Layout l, int nt) {
  return nt > 16 ? 1 : is_k(l) ? 4 : group_of(l);
}

/// 64 inputs of 16 outputs for NT tokens: part `part` of the stage, whose inputs start at x_offset.
template <Layout L, int NT>
__device__ __forceinline__ void multiply_part(Codec<L>& codec, const std::uint8_t* stage, int part,
                                              int lane, const unsigned (&x_at)[NT / 8],
                                              unsigned x_offset, float (&acc)[NT / 8][4]) {
  codec.load(is_k(L) ? stage : stage + part * subtile_bytes(L), part, lane);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Bits f[2][4];
    codec.fragment(2 * half, f[0]);
    codec.fragment(2 * half + 1, f[1]);
#pragma unroll
    for (int n = 0; n < NT / 8; ++n) {
      Bits b[4];
      ldmatrix4(b, x_at[n] + x_offset + 128 * part + 64 * half);
      mma16816(acc[n], f[0], b[0], b[1]);
      mma16816(acc[n], f[1], b[2], b[3]);
    }
  }
}

/// A warp's sums to `to`, [token][output]: in this block, or sent to the one of rank `peer`.
template <int NT>
__device__ __forceinline__ void put_sums(float* to, const float (&acc)[NT / 8][4], int lane,
                                         int peer, unsigned barrier) {
  const int r = lane / 4, c = lane % 4;
  const unsigned far = peer < 0 ? 0 : in_cluster(shared_address(to), peer);
  if (peer >= 0) barrier = in_cluster(barrier, peer);
#pragma unroll
  for (int n = 0; n < NT / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = (8 * n + 2 * c + i % 2) * kRedStride + r + 8 * (i / 2);
      if (peer < 0)
        to[at] = acc[n][i];
      else
        send(far + 4 * at, acc[n][i], barrier);
    }
  }
}

/// grid: (blocks, or pairs of them, that share the tiles; groups of NT tokens). Paired: two blocks
/// of a cluster; a choice at run time would cost one row 2 %.
template <Layout L, int NT, bool Paired>
__global__ void __launch_bounds__(kThreads, NT <= 8 ? 2 : 1)
    stream_kernel(const __grid_constant__ StreamArgs a) {
  constexpr int kTileK = tile_k(L);
  extern __shared__ __align__(128) std::uint8_t smem[];
  const Work& w = a.work;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token0 = NT * blockIdx.y;
  const int slot_warps = a.chains * (w.epilogue == Epilogue::SWIGLU_F16 ? 2 : 1);
  const int slots = kWarps / slot_warps, slot = warp / slot_warps;
  const int chain = warp % slot_warps % a.chains, pair = warp % slot_warps / a.chains;
  // Slots of even number end in the first block of a pair, the others in the second.
  constexpr int kBlocks = Paired ? 2 : 1;
  const int rank = Paired ? cluster_rank() : 0, first_chain = rank * a.chains;
  const int sharer = blockIdx.x / kBlocks, sharers = gridDim.x / kBlocks;
  const int first = a.tiles * sharer / sharers;  // launch() sees to it that this fits
  const int end = a.tiles * (sharer + 1) / sharers;
  if (w.turn != Turn::first) let_next_start();

  // Shared memory: rings, sums, barriers, activations.
  WeightRing<L> ring;
  const unsigned base = shared_address(smem);
  float* red = reinterpret_cast<float*>(smem + kWarps * a.stages * WeightRing<L>::kStage);
  const unsigned all_barriers = shared_address(red) + kWarps * NT * kRedStride * 4;
  const unsigned slot_sent = all_barriers + kWarps * a.stages * 8 + 8 * slot;
  const unsigned x_smem = all_barriers + kWarps * (a.stages + 1) * 8;
  ring.data = base + warp * a.stages * WeightRing<L>::kStage;
  ring.barriers = all_barriers + warp * a.stages * 8;
  ring.stages = a.stages, ring.slots = slots, ring.end = end;
  ring.range = chain_range(w.k_tiles, w.chains, first_chain + chain);
  ring.tile = first + slot;
  if (lane < a.stages) init_barrier(ring.barriers + 8 * lane);
  if (Paired && lane == 0 && warp % slot_warps == 0) init_barrier(slot_sent);
  publish_barriers();
  if (Paired) cluster_arrive();
  __syncwarp();
  if (ring.tile < end) ring.start_tile(w, pair);
  const int early = min(early_stages(L), a.stages);
#pragma unroll 1
  for (int i = 0; i < early; ++i) ring.fetch_next(w, pair, lane);
  if (w.turn != Turn::other) wait_for_inputs();
  if (w.turn == Turn::first) let_next_start();

  const int token_bytes = (a.phase_tiles * kTileK + 8) * 2;
  unsigned x_at[NT / 8];  // tokens that are not there read the last one; no one reads their sums
#pragma unroll
  for (int n = 0; n < NT / 8; ++n)
    x_at[n] = x_smem + (chain * a.tokens + min(8 * n + lane % 8, a.tokens - 1)) * token_bytes +
              lane / 8 * 16;

  const int rounds = (end - first + slots - 1) / slots;
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
    const int tile = first + round * slots + slot;
    const int count = tile < end ? ring.range.count : 0;
    Codec<L> codec;
    float acc[NT / 8][4] = {};
#pragma unroll 1
    for (int phase = 0; phase < a.phases; ++phase) {
      if (a.phases > 1 || round == 0) {
        if (phase > 0 || round > 0) __syncthreads();
        stage_activations<kTileK>(a, x_smem, first_chain, phase, token0);
        if (phase == 0 && round == 0) {  // behind the activations, which are waited for first
#pragma unroll 1
          for (int i = early; i < a.stages; ++i) ring.fetch_next(w, pair, lane);
        }
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
      }
      const int stop = min(count, (phase + 1) * a.phase_tiles);
      unsigned x_offset = 0;
#pragma unroll 1
      for (int k = phase * a.phase_tiles; k < stop; k += group_of(L)) {
        wait_full(ring.barriers + 8 * ring.take, ring.parity);
        const std::uint8_t* stage = smem + (warp * a.stages + ring.take) * WeightRing<L>::kStage;
        constexpr int kParts = is_k(L) ? 4 : group_of(L), kUnroll = unroll_of(L, NT);
        const int parts = is_k(L) ? 4 : min(kParts, stop - k);
        if (parts == kParts) {
#pragma unroll 1
          for (int part = 0; part < kParts; part += kUnroll) {
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
              multiply_part<L, NT>(codec, stage, part + u, lane, x_at, x_offset, acc);
          }
        } else {
#pragma unroll 1
          for (int part = 0; part < parts; ++part)
            multiply_part<L, NT>(codec, stage, part, lane, x_at, x_offset, acc);
        }
        x_offset += 128 * parts;
        __syncwarp();  // all lanes have read the stage
        ring.fetch_next(w, pair, lane);
        if (++ring.take == a.stages) ring.take = 0, ring.parity ^= 1;
      }
    }
    if (Paired && round == 0) cluster_wait();
    if (count > 0) {  // no barrier of all threads within
      const auto slot_barrier = [&] {
        if (slot_warps == 1) {
          __syncwarp();
        } else {
          asm volatile("bar.sync %0, %1;" ::"r"(1 + slot), "r"(32 * slot_warps) : "memory");
        }
      };
      const bool ends_here = !Paired || slot % 2 == rank;
      float* sums = red + slot / kBlocks * kBlocks * slot_warps * NT * kRedStride;
      float* mine = sums + (pair * w.chains + first_chain + chain) * NT * kRedStride;
      put_sums<NT>(mine, acc, lane, ends_here ? -1 : 1 - rank, slot_sent);
      if (ends_here) {
        if (Paired && warp % slot_warps == 0) announce(slot_sent, slot_warps * NT * 16 * 4, lane);
        slot_barrier();
        if (Paired) wait_sent(slot_sent, round % 2);
        finish<NT>(w, find_tile(w, tile, 0), sums, threadIdx.x - 32 * slot * slot_warps,
                   32 * slot_warps, token0);
        slot_barrier();
      }
    }
    if (Paired && round + 1 < rounds) cluster_barrier();
  }
  if (w.turn == Turn::other) wait_for_inputs();
}

/// Stages and phases that fit into `room` bytes; false if nothing does.
template <Layout L, int NT>
bool plan(StreamArgs& a, int room, int& bytes) {
  const int red_bytes = kWarps * NT * kRedStride * 4;
  const int longest = chain_range(a.work.k_tiles, a.work.chains, 0).count;
  constexpr int kGroup = group_of(L), kStage = kWarps * (stage_bytes(L) + 8);
  constexpr int kFewest = 2, kMost = std::max(2, ring_bytes(L) / stage_bytes(L));
  const auto x_bytes = [&](int tiles) { return a.chains * a.tokens * (tiles * tile_k(L) + 8) * 2; };
  a.chains = a.work.chains / a.blocks;
  a.phases = 1;
  while (true) {
    a.phase_tiles = (longest + a.phases - 1) / a.phases;
    if (a.phases > 1) a.phase_tiles = (a.phase_tiles + kGroup - 1) / kGroup * kGroup;
    const int fixed = red_bytes + x_bytes(a.phase_tiles) + 8 * kWarps;
    a.stages = std::min(kMost, (room - fixed) / kStage);
    if (room > fixed && a.stages >= kFewest) {
      bytes = fixed + a.stages * kStage;
      return true;
    }
    if (a.phase_tiles <= kGroup) return false;
    ++a.phases;
  }
}

template <Layout L, int NT>
cudaError_t launch(const Work& work, const DeviceLimits& device, cudaStream_t stream, bool& fits) {
  StreamArgs a{};
  a.work = work;
  a.tokens = std::min(NT, work.rows);
  for (int m = 0; m < work.n_matrices; ++m) {
    if (work.epilogue != Epilogue::SWIGLU_F16 || m == 0) a.tiles += (work.matrix[m].n + 15) / 16;
  }
  if (a.tiles > INT_MAX / (device.multiprocessors + 1)) return cudaErrorInvalidValue;
  int bytes = 0;
  a.blocks = 1;
  fits = plan<L, NT>(a, device.shared_bytes, bytes);
  if (NT == 8 && device.wgmma && work.turn == Turn::only && work.chains > 1 &&
      work.multiprocessors > 1) {
    StreamArgs pairs = a;  // each block stages half of the activations
    int pair_bytes = 0;
    pairs.blocks = 2;
    if (plan<L, NT>(pairs, device.shared_bytes, pair_bytes) && (!fits || pairs.phases < a.phases))
      a = pairs, bytes = pair_bytes, fits = true;
  }
  if (!fits) return cudaErrorInvalidValue;
  // No two blocks on one multiprocessor: a launch that begins while others still run would put
  // them there and take twice as long.
  bytes = std::max(bytes, device.shared_bytes / 2 + 1024);
  const auto launch = [&](auto kernel) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    const dim3 grid(a.blocks * std::min(work.multiprocessors / a.blocks, a.tiles),
                    (work.rows + NT - 1) / NT);
    // Weights may be fetched while the kernel before still runs.
    return launch_clusters(kernel, a.blocks, grid, kThreads, bytes, stream, a);
  };
  if constexpr (NT == 8)
    if (a.blocks == 2) return launch(stream_kernel<L, NT, true>);
  return launch(stream_kernel<L, NT, false>);
}

}  // namespace stream_detail

template <Layout L>
cudaError_t stream_matmul(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  bool fits = false;
  cudaError_t error = cudaErrorInvalidValue;
  if (work.rows > 16) error = stream_detail::launch<L, 32>(work, device, stream, fits);
  if (work.rows > 8 && !fits) error = stream_detail::launch<L, 16>(work, device, stream, fits);
  if (!fits) error = stream_detail::launch<L, 8>(work, device, stream, fits);
  return error;
}

}  // namespace herd::cuda
