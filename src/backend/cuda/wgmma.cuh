// Many rows on Hopper: wgmma with 64 weights' outputs as the A operand, dequantised in registers,
// and up to 128 tokens as the B operand in shared memory. Two warps keep a ring full each, packed
// weights by bulk copies (the first before the launch in front has ended) and activations by tensor
// copies; each of two or four warpgroups owns 64 outputs, dequantises the next 64 inputs while the
// matrix unit works on the last ones, and adds up its chains in registers. When there are too few
// tiles to fill the card, the chains of an item go to different blocks instead: each leaves its
// sums in memory, and the last one to do so adds them in the same order.
#pragma once

#include <algorithm>

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/matmul_kernels.cuh"

namespace herd::cuda {
namespace wgmma_detail {

/// A block's tile: `groups` warpgroups of 64 outputs by `tokens`.
struct Tile {
  int groups, tokens;
  constexpr int outputs() const { return 64 * groups; }
  constexpr int threads() const { return 128 * groups; }  // those that multiply
  /// Large tiles leave no registers for the sum of earlier chains.
  constexpr bool one_chain() const { return groups * tokens >= 512; }
  /// Floats between tokens of a block's sums: free of bank conflicts.
  constexpr int sum_stride() const { return 64 * groups + 4; }
};

struct WgmmaArgs {
  CUtensorMap x;
  Work work;
  int tiles;          // of 64 outputs, over all matrices (SwiGLU: gate and up alternate)
  int token_tiles;    // of T.tokens tokens
  int items;          // pairs of output tiles times token tiles
  int parts;          // units an item is cut into: runs of whole chains
  bool once;          // weights go first from the L2 cache
  float* partials;    // [item][chain][token group of 8][thread][4], where there are parts
  Meeting* meetings;  // [item]
  Bits zero;
};

constexpr int weight_stage(Layout l, Tile t) {
  return t.groups * 4 * subtile_bytes(l);
}
constexpr int x_stage(Tile t) {
  return t.tokens * 128;
}
constexpr int kRoom = 220 * 1024;
/// Bytes beside the rings: barriers, and the sums of some tokens on their way out.
constexpr int kept_tokens(Tile t) {
  return t.one_chain() ? 32 : t.tokens < 64 ? t.tokens : 64;
}
constexpr int side_bytes(Tile t) {
  return 1024 + kept_tokens(t) * t.sum_stride() * 4;
}
constexpr int weight_stages(Layout l, Tile t) {
  const int left = kRoom - side_bytes(t) - 4 * x_stage(t);
  const int fit = left / weight_stage(l, t) < 2 ? 2 : left / weight_stage(l, t);
  const int enough = is_k(l) ? (t.tokens == 128 ? 3 : 5) : t.tokens == 128 ? 6 : 10;
  return fit < enough ? fit : enough;
}
constexpr int x_stages(Layout l, Tile t) {
  const int fit = (kRoom - side_bytes(t) - weight_stages(l, t) * weight_stage(l, t)) / x_stage(t);
  return fit < 12 ? fit : 12;
}
constexpr int shared_size(Layout l, Tile t) {
  return 1024 + side_bytes(t) + weight_stages(l, t) * weight_stage(l, t) +
         x_stages(l, t) * x_stage(t);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

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
/// What a block does in one go: an item with all of its chains or a run of them.
struct Unit {
  int item, first_chain, chains;
  ChainRange tiles;  // of inputs
};
__device__ __forceinline__ Unit unit_at(const WgmmaArgs& a, int unit) {
  if (a.parts == 1) return {unit, 0, a.work.chains, {0, a.work.k_tiles}};
  const int chains = a.work.chains / a.parts, first = unit % a.parts * chains;
  const ChainRange from = chain_range(a.work.k_tiles, a.work.chains, first);
  const ChainRange to = chain_range(a.work.k_tiles, a.work.chains, first + chains - 1);
  return {unit / a.parts, first, chains, {from.first, to.first + to.count - from.first}};
}
/// body(unit) for all units of this block.
template <class Body>
__device__ __forceinline__ void for_units(const WgmmaArgs& a, Body&& body) {
#pragma unroll 1
  for (int u = blockIdx.x; u < a.items * a.parts; u += gridDim.x) body(unit_at(a, u));
}

/// One warp fetches weights: they are there before the step begins. Once: they go first from the
/// cache; a loop of its own, since a choice within costs long products 1 to 3 %.
template <Layout L, Tile T, bool Once>
__device__ void fetch_weights(const WgmmaArgs& a, unsigned weights, unsigned barriers) {
  constexpr int kBytes = subtile_bytes(L);
  Ring<weight_stages(L, T)> w{barriers};
  const int lane = threadIdx.x % 32, strip = lane % (4 * T.groups);
  [[maybe_unused]] const CachePolicy policy = read_once();
  for_units(a, [&](const Unit& unit) {
    const int pair = unit.item / a.token_tiles;
    Place p = find_tile(a, T.groups * pair + strip / 4);
    if (p.tile < 0) p = find_tile(a, T.groups * pair);
    const std::uint8_t* from =
        a.work.matrix[p.matrix].data +
        ((4ll * p.tile + strip % 4) * a.work.k_tiles + unit.tiles.first) * kBytes;
#pragma unroll 1
    for (int k = 0; k < unit.tiles.count; ++k) {
      barrier_wait(w.empty(), w.parity ^ 1);
      if (lane == 0) barrier_expect(w.full(), weight_stage(L, T));
      __syncwarp();
      if (lane < 4 * T.groups) {
        const unsigned to = weights + w.stage * weight_stage(L, T) + strip * kBytes;
        if constexpr (Once)
          bulk_copy(to, from, kBytes, w.full(), policy);
        else
          bulk_copy(to, from, kBytes, w.full());
      }
      from += kBytes;
      w.advance();
    }
  });
}
/// One thread fetches activations, 64 inputs at a time.
template <Layout L, Tile T>
__device__ void fetch_tokens(const WgmmaArgs& a, unsigned tokens, unsigned barriers) {
  Ring<x_stages(L, T)> x{barriers + 16 * weight_stages(L, T)};
  for_units(a, [&](const Unit& unit) {
    const int token0 = unit.item % a.token_tiles * T.tokens;
#pragma unroll 1
    for (int part = 0; part < unit.tiles.count * (tile_k(L) / 64); ++part) {
      barrier_wait(x.empty(), x.parity ^ 1);
      barrier_expect(x.full(), x_stage(T));
      box_copy(tokens + x.stage * x_stage(T), &a.x, unit.tiles.first * tile_k(L) + 64 * part,
               token0, x.full());
      x.advance();
    }
  });
}

/// What a warpgroup knows while it multiplies. Fragments of a group of inputs (64, or 32 to save
/// registers) are made while the matrix unit works on the group before.
template <Layout L, Tile T>
struct Multiplier {
  static constexpr int kParts = tile_k(L) / 64, kSums = T.tokens / 2;
  static constexpr int kSteps = kParts == 4 && (T.groups == 2 || T.tokens == 32) ? 4 : 2;
  static constexpr int kGroups = 4 / kSteps;  // of a part; fragments of the next go to the other a
  static constexpr int buffer(int part, int group) { return (kGroups * part + group) % 2; }
  Ring<weight_stages(L, T)> w;  // next to read
  Ring<weight_stages(L, T)> w_released;
  Ring<x_stages(L, T)> x;           // next to multiply
  Ring<x_stages(L, T)> x_released;  // next to hand back
  unsigned tokens;
  const std::uint8_t* weights;  // this warp's subtile of stage 0
  Bits zero;                    // that the compiler does not know
  Codec<L> codec;
  Bits a[2][kSteps][4];
  float acc[kSums], total[T.one_chain() ? 1 : kSums];

  /// Fragments of a group of part Part of the weight tile at hand; the first waits for the tile.
  template <int Part, int Group>
  __device__ __forceinline__ void dequantise() {
    if (Group == 0) {
      if (Part == 0) barrier_wait(w.full(), w.parity);
      codec.load(weights + w.stage * weight_stage(L, T), Part, threadIdx.x % 32);
      if (Part == kParts - 1) w.advance();
    }
    Bits(&to)[kSteps][4] = a[buffer(Part, Group)];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      codec.fragment(kSteps * Group + s, to[s]);
      // A product must not take registers straight from a load: it does not wait for their data.
      if (L == Layout::F16)
        for (int i = 0; i < 4; ++i)
          asm volatile("xor.b32 %0, %0, %1;" : "+r"(to[s][i]) : "r"(zero));
    }
  }
  template <class R>
  __device__ __forceinline__ void release(R& ring) {
    if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty());
    ring.advance();
  }
  template <int Part, int Group>
  __device__ __forceinline__ void issue(std::uint64_t b, bool first) {
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
      wgmma(acc, a[buffer(Part, Group)][s], b + 2 * (kSteps * Group + s), Group + s > 0 || !first);
    wgmma_commit();
  }
  /// 64 inputs: part Part of a tile. Makes the first fragments of the next part meanwhile.
  template <int Part>
  __device__ __forceinline__ void step(bool first, bool more) {
    barrier_wait(x.full(), x.parity);
    const std::uint64_t b = descriptor(tokens + x.stage * x_stage(T));
    x.advance();
    issue<Part, 0>(b, first);
    wgmma_wait<1>();  // the group before is done: its fragments are free, and its tokens
    if (!first) release(x_released);
    if constexpr (kGroups == 2) {
      dequantise<Part, 1>();
      issue<Part, 1>(b, first);
    }
    // Only now has a lane what it read of the tile: its fragments are in use. Each says so for
    // itself: one that spoke for its warp would know of its own reads alone.
    if (Part == kParts - 1) barrier_arrive(w_released.empty()), w_released.advance();
    if (kGroups == 2) wgmma_wait<1>();
    if (more) dequantise<(Part + 1) % kParts, 0>();
  }
  /// Ends a chain.
  __device__ __forceinline__ void add_up(bool first_chain) {
    wgmma_wait<0>();
    release(x_released);
    if constexpr (!T.one_chain()) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) total[i] = first_chain ? acc[i] : total[i] + acc[i];
    }
  }
  __device__ __forceinline__ const float (&sums() const)[kSums] {
    if constexpr (T.one_chain())
      return acc;
    else
      return total;
  }
};

/// Sums of a chain, or of an item's first chains, to memory. Before the first of them the kernel in
/// front must have ended.
template <Tile T>
__device__ __forceinline__ void put_partial(const WgmmaArgs& a, int item, int chain,
                                            const float (&total)[T.tokens / 2]) {
  constexpr int kThreads = T.threads(), kUnit = T.tokens / 8 * kThreads;
  float4* to = reinterpret_cast<float4*>(a.partials) + threadIdx.x - 128 +
               (static_cast<long long>(item) * a.work.chains + chain) * kUnit;
#pragma unroll
  for (int j = 0; j < T.tokens / 8; ++j)
    __stcg(to + j * kThreads,
           float4{total[4 * j], total[4 * j + 1], total[4 * j + 2], total[4 * j + 3]});
}

/// All chains of a unit. Those that do not begin an item go to memory one by one, since they must
/// be added one after the other.
template <Layout L, Tile T>
__device__ __forceinline__ void multiply(const WgmmaArgs& a, const Unit& unit,
                                         Multiplier<L, T>& m) {
  constexpr int kParts = Multiplier<L, T>::kParts;

  m.template dequantise<0, 0>();
  for (int chain = 0; chain < unit.chains; ++chain) {
    const int count = chain_range(a.work.k_tiles, a.work.chains, unit.first_chain + chain).count;
    const bool more_chains = chain + 1 < unit.chains;
#pragma unroll 1
    for (int k = 0; k < count; ++k) {
      const bool more = k + 1 < count || more_chains;
      m.template step<0>(k == 0, kParts > 1 || more);
      if constexpr (kParts == 4) {
        m.template step<1>(false, true);
        m.template step<2>(false, true);
        m.template step<3>(false, more);
      }
    }
    const bool begins = unit.first_chain == 0;
    m.add_up(chain == 0 || !begins);
    if (a.parts > 1 && !(begins && more_chains)) {
      if (a.work.turn != Turn::other) wait_for_inputs();
      put_partial<T>(a, unit.item, unit.first_chain + (begins ? 0 : chain), m.sums());
    }
  }
}

/// Four outputs of one token.
template <Tile T>
__device__ __forceinline__ void write_quad(const WgmmaArgs& a, int pair, int quad, int token,
                                           float4 sum) {
  const Work& w = a.work;
  const int group = quad / 16 * (w.epilogue == Epilogue::SWIGLU_F16 ? 2 : 1);
  const Place place = find_tile(a, T.groups * pair + group);
  if (place.tile < 0 || token >= w.rows) return;
  const Work::Matrix& m = w.matrix[place.matrix];
  const int n = 64 * place.tile + 4 * (quad % 16);
  const long long at = static_cast<long long>(token) * m.stride + n;
  if (n + 4 <= m.n && m.stride % 4 == 0) {
    if (w.epilogue == Epilogue::F32 || w.epilogue == Epilogue::F32_ADD) {
      float4* out = reinterpret_cast<float4*>(static_cast<float*>(m.out) + at);
      if (w.epilogue == Epilogue::F32_ADD)
        asm volatile(
            "red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(out)),
            "f"(sum.x), "f"(sum.y), "f"(sum.z), "f"(sum.w)
            : "memory");
      else
        *out = sum;
    } else {
      const uint2 halves = {as_bits(__floats2half2_rn(sum.x, sum.y)),
                            as_bits(__floats2half2_rn(sum.z, sum.w))};
      *reinterpret_cast<uint2*>(static_cast<__half*>(m.out) + at) = halves;
    }
    return;
  }
#pragma unroll 1
  for (int j = 0; j < 4 && n + j < m.n; ++j) {
    store(w.epilogue, m.out, at + j, sum.x);
    sum.x = sum.y, sum.y = sum.z, sum.z = sum.w;
  }
}
/// `count` tokens of an item from sums[token][128 outputs].
template <Tile T>
__device__ __forceinline__ void write_tokens(const WgmmaArgs& a, int pair, int token0, int count,
                                             const float* sums) {
  const bool swiglu = a.work.epilogue == Epilogue::SWIGLU_F16;
  constexpr int kQuads = 16 * T.groups;
#pragma unroll 1
  for (int i = threadIdx.x - 128; i < count * (swiglu ? kQuads / 2 : kQuads); i += T.threads()) {
    const int token = swiglu ? i / (kQuads / 2) : i / kQuads;
    const int quad = swiglu ? i % (kQuads / 2) : i % kQuads;
    // SwiGLU: gate and up alternate, 64 outputs each.
    const float* at = sums + token * T.sum_stride() + 4 * quad + (swiglu ? quad / 16 * 64 : 0);
    float4 sum = *reinterpret_cast<const float4*>(at);
    if (swiglu) {
      const float4 up = *reinterpret_cast<const float4*>(at + 64);
      sum.x = silu(sum.x) * up.x, sum.y = silu(sum.y) * up.y;
      sum.z = silu(sum.z) * up.z, sum.w = silu(sum.w) * up.w;
    }
    write_quad<T>(a, pair, quad, token0 + token, sum);
  }
}
/// The sums of tokens [8 First, 8 End) to shared memory, token by token. Little code, so that it
/// stays in the instruction cache; the loop that writes them out is rolled up.
template <int First, int End, int Size>
__device__ __forceinline__ void put_sums(float* sums, int stride, int group,
                                         const float (&total)[Size]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  float* at = sums + 2 * (lane % 4) * stride + 64 * group + 16 * warp + lane / 4;
#pragma unroll
  for (int j = First; j < End; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      at[(8 * (j - First) + i % 2) * stride + 8 * (i / 2)] = total[4 * j + i];
  }
}
template <Tile T>
__device__ __forceinline__ void multipliers_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(T.threads()) : "memory");
}
// ---- an item whose chains went to several blocks ----

/// The last block to leave its sums adds them up, and so do those that find all of them there while
/// they wait: each takes a share of the tokens after the other. Nobody has to wait, so blocks need
/// not run at the same time.
constexpr int kShares = 4, kPatience = 64;

/// One thread: says that this block's sums are in memory; true if all are, now or soon.
__device__ __forceinline__ bool arrive(const WgmmaArgs& a, Meeting* meeting) {
  int there = count_up(&meeting->arrived) + 1;
#pragma unroll 1
  for (int i = 0; there < a.parts && i < kPatience; ++i) there = load_acquire(&meeting->arrived);
  return there == a.parts;
}
__device__ __forceinline__ void leave(const WgmmaArgs& a, Meeting* meeting) {
  if (count_up(&meeting->left) + 1 == a.parts) *meeting = {};  // as the next call expects it
}

/// A share of the tokens: the sums of all chains, in order, through `side` to their matrices.
template <Tile T>
__device__ __forceinline__ void write_share(const WgmmaArgs& a, const Unit& unit, int share,
                                            float* side) {
  constexpr int kThreads = T.threads(), kUnit = T.tokens / 8 * kThreads;
  constexpr int kTokens = T.tokens / kShares, kGroups = kTokens / 8;
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const float4* from = reinterpret_cast<const float4*>(a.partials) + thread +
                       static_cast<long long>(unit.item) * a.work.chains * kUnit +
                       share * kGroups * kThreads;
  const int together = a.work.chains / a.parts;  // the first ones
  float sum[4 * kGroups] = {};
#pragma unroll 4
  for (int c = together - 1; c < a.work.chains; ++c) {
    const int slot = c < together ? 0 : c;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const float4 v = __ldcg(from + slot * kUnit + j * kThreads);
      sum[4 * j] = slot == 0 ? v.x : sum[4 * j] + v.x;
      sum[4 * j + 1] = slot == 0 ? v.y : sum[4 * j + 1] + v.y;
      sum[4 * j + 2] = slot == 0 ? v.z : sum[4 * j + 2] + v.z;
      sum[4 * j + 3] = slot == 0 ? v.w : sum[4 * j + 3] + v.w;
    }
  }
  put_sums<0, kGroups>(side, T.sum_stride(), thread / 128, sum);
  multipliers_barrier<T>();
  write_tokens<T>(a, unit.item / a.token_tiles,
                  unit.item % a.token_tiles * T.tokens + share * kTokens, kTokens, side);
}

/// This block's sums are in memory; adds up what it can. `flag`: a word in shared memory.
template <Tile T>
__device__ __forceinline__ void meet(const WgmmaArgs& a, const Unit& unit, float* side, int* flag) {
  const int thread = static_cast<int>(threadIdx.x) - 128;
  Meeting* meeting = a.meetings + unit.item;
  multipliers_barrier<T>();
  if (thread == 0) *flag = arrive(a, meeting) ? claim(&meeting->claimed) : kShares;
  multipliers_barrier<T>();
  int share = *flag;
  while (share < kShares) {
    const int next = thread == 0 ? claim(&meeting->claimed) : 0;
    write_share<T>(a, unit, share, side);
    if (thread == 0) *flag = next;
    multipliers_barrier<T>();
    share = *flag;
  }
  if (thread == 0) leave(a, meeting);
}
/// The sums of as many tokens as `side` holds, pass by pass.
template <Tile T, int Pass = 0>
__device__ __forceinline__ void put_pass(int pass, float* side, int group,
                                         const float (&total)[T.tokens / 2]) {
  constexpr int kKept = kept_tokens(T);
  if constexpr (Pass * kKept < T.tokens) {
    if (pass != Pass) return put_pass<T, Pass + 1>(pass, side, group, total);
    put_sums<Pass * kKept / 8, (Pass + 1) * kKept / 8>(side, T.sum_stride(), group, total);
  }
}
/// An item's sums to their matrices, through `side`. What writes them stands in the code but once:
/// an item is over before unrolled passes have been fetched.
template <Tile T>
__device__ __forceinline__ void write_item(const WgmmaArgs& a, int pair, int group, int token0,
                                           float* side, const float (&total)[T.tokens / 2]) {
  constexpr int kKept = kept_tokens(T);
#pragma unroll 1
  for (int pass = 0; pass < T.tokens / kKept; ++pass) {
    multipliers_barrier<T>();  // what stood there has been written
    put_pass<T>(pass, side, group, total);
    multipliers_barrier<T>();
    write_tokens<T>(a, pair, token0 + pass * kKept, kKept, side);
  }
}

template <Layout L, Tile T>
__device__ __forceinline__ void consume(const WgmmaArgs& a, const std::uint8_t* weights,
                                        unsigned tokens, unsigned barriers, float* side,
                                        int* flag) {
  const int group = static_cast<int>(threadIdx.x / 128) - 1, warp = threadIdx.x / 32 % 4;
  Multiplier<L, T> m;
  m.w.barriers = m.w_released.barriers = barriers;
  m.x.barriers = m.x_released.barriers = barriers + 16 * weight_stages(L, T);
  m.tokens = tokens, m.zero = a.zero;
  m.weights = weights + (4 * group + warp) * subtile_bytes(L);
  for_units(a, [&](const Unit& unit) {
    multiply(a, unit, m);
    if (a.parts > 1) return meet<T>(a, unit, side, flag);
    if (a.work.turn != Turn::other) wait_for_inputs();
    write_item<T>(a, unit.item / a.token_tiles, group, unit.item % a.token_tiles * T.tokens, side,
                  m.sums());
  });
}
#endif  // sm_90a

template <Layout L, int Groups, int Tokens>
__global__ void __launch_bounds__(Tile{Groups, Tokens}.threads() + 128, 1)
    wgmma_kernel(const __grid_constant__ WgmmaArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr Tile T = {Groups, Tokens};
  constexpr int kWeightStages = weight_stages(L, T), kXStages = x_stages(L, T);
  extern __shared__ std::uint8_t raw[];
  std::uint8_t* smem = raw + (1024 - shared_address(raw) % 1024) % 1024;
  float* side = reinterpret_cast<float*>(smem + shared_size(L, T) - 1024 - side_bytes(T));
  const unsigned barriers = shared_address(side) + side_bytes(T) - 1024;
  int* flag = reinterpret_cast<int*>(smem + shared_size(L, T) - 1024 - 16);
  // Tokens first: their swizzle wants 1,024-byte alignment.
  const unsigned tokens = shared_address(smem);
  std::uint8_t* weights = smem + kXStages * x_stage(T);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWeightStages; ++i) {
      barrier_init(barriers + 8 * i, 1);
      barrier_init(barriers + 8 * (kWeightStages + i), T.threads());
    }
    for (int i = 0; i < kXStages; ++i) {
      barrier_init(barriers + 16 * kWeightStages + 8 * i, 1);
      barrier_init(barriers + 16 * kWeightStages + 8 * (kXStages + i), 4 * T.groups);
    }
    publish_barriers();
  }
  __syncthreads();
  if (a.work.turn != Turn::first) let_next_start();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(T.groups == 2 ? 40 : 32));
    if (threadIdx.x < 32) {
      if (a.once)
        fetch_weights<L, T, true>(a, shared_address(weights), barriers);
      else
        fetch_weights<L, T, false>(a, shared_address(weights), barriers);
    } else if (threadIdx.x == 32) {
      if (a.work.turn != Turn::other) wait_for_inputs();
      if (a.work.turn == Turn::first) let_next_start();
      fetch_tokens<L, T>(a, tokens, barriers);
      if (a.work.turn == Turn::other) wait_for_inputs();
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(T.groups == 2 ? 232 : 112));
    consume<L, T>(a, weights, tokens, barriers, side, flag);
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

/// How many units to cut an item into: as many as find a multiprocessor each. A meeting of blocks
/// costs about as much as 500 inputs.
inline int parts_of(const Work& work, int items, Tile t, int multiprocessors) {
  if (items > work.n_meetings ||
      1ll * items * work.chains * t.outputs() * t.tokens > work.n_partials)
    return 1;
  int parts = 1;
  for (int p = 2; p <= work.chains && items * p <= multiprocessors; p *= 2)
    if (work.columns / p + 500 < work.columns) parts = p;
  return parts;
}

/// Items of a call cut into such tiles.
inline int items_of(const Work& work, Tile t) {
  int tiles = 0;
  for (int m = 0; m < work.n_matrices; ++m) tiles += (work.matrix[m].n + 63) / 64;
  return (tiles + t.groups - 1) / t.groups * ((work.rows + t.tokens - 1) / t.tokens);
}

template <Layout L, Tile T>
cudaError_t launch(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  WgmmaArgs a{};
  a.work = work;
  for (int m = 0; m < work.n_matrices; ++m) a.tiles += (work.matrix[m].n + 63) / 64;
  a.token_tiles = (work.rows + T.tokens - 1) / T.tokens;
  a.items = items_of(work, T);
  a.parts = parts_of(work, a.items, T, device.multiprocessors);
  a.partials = work.partials, a.meetings = work.meetings;
  // Activations much larger than the cache would push them out before all blocks have read them.
  a.once = 1ll * work.rows * work.columns <= 32ll << 20;
  cudaError_t error = map_tokens(a.x, work, T.tokens);
  if (error != cudaSuccess) return error;
  constexpr int kBytes = shared_size(L, T);
  error = cudaFuncSetAttribute(wgmma_kernel<L, T.groups, T.tokens>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = std::min(a.items * a.parts, device.multiprocessors);
  config.blockDim = T.threads() + 128;
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, wgmma_kernel<L, T.groups, T.tokens>, a);
}

/// Up to 64 tokens: four warpgroups to a block, or two where blocks would leave half of the
/// multiprocessors idle.
template <Layout L, int Tokens>
cudaError_t launch_small(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  constexpr Tile kFour = {4, Tokens}, kTwo = {2, Tokens};
  const int items = items_of(work, kFour);
  const int units = items * parts_of(work, items, kFour, device.multiprocessors);
  if (2 * units <= device.multiprocessors) return launch<L, kTwo>(work, device, stream);
  return launch<L, kFour>(work, device, stream);
}

}  // namespace wgmma_detail

template <Layout L>
cudaError_t wgmma_matmul(const Work& work, const DeviceLimits& device, cudaStream_t stream) {
  using namespace wgmma_detail;
  constexpr Tile k128 = {2, 128}, kWide = {4, 128};
  if (work.rows <= 32) return launch_small<L, 32>(work, device, stream);
  if (work.rows <= 64) return launch_small<L, 64>(work, device, stream);
  // A wide tile takes 1.7 times as long for twice the outputs.
  const auto rounds = [&](Tile t) {
    return (items_of(work, t) + device.multiprocessors - 1) / device.multiprocessors;
  };
  if (work.chains == 1 && 1.7 * rounds(kWide) < rounds(k128))
    return launch<L, kWide>(work, device, stream);
  return launch<L, k128>(work, device, stream);
}

}  // namespace herd::cuda
