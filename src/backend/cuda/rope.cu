// Rotation of queries and keys; keys and values go to their slots of the pool in the same pass.
#include <algorithm>

#include "backend/cuda/async.cuh"
#include "backend/cuda/attention_tile.cuh"
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

/// Aligned memory of so many values, moved at once.
template <class T, int N>
struct alignas(N * sizeof(T)) Several {
  T at[N];
};

/// A thread is one or two pairs of a head; a block takes heads of one row: those of q, then of k,
/// then v.
template <int Pairs>
__global__ void rope_store(RopeStoreArgs args, LayerPool pool, StepView step) {
  using Floats = Several<float, 2 * Pairs>;
  using Halves = Several<__half2, Pairs>;
  const int row = blockIdx.x, d = 2 * Pairs * threadIdx.x;
  const int n_q = args.q != nullptr ? args.heads : 0;
  const int n_k = args.k != nullptr ? args.kv_heads : 0;
  const int n_v = args.v != nullptr ? args.kv_heads : 0;
  const int i = blockIdx.y * blockDim.y + threadIdx.y;
  // What the step knows beforehand is looked up while the products still run.
  const std::int32_t slot = args.v != nullptr ? step.slots[row] : -1;
  const bool rotates = i < n_q + n_k && d < args.rope_size;
  Floats turn = {};
  if (rotates)
    turn = *reinterpret_cast<const Floats*>(
        args.table + static_cast<std::int64_t>(step.positions[row]) * args.rope_size + d);
  let_next_start();
  wait_for_inputs();
  if (i >= n_q + n_k + n_v) return;

  const int head = i < n_q ? i : i < n_q + n_k ? i - n_q : i - n_q - n_k;
  const int heads = i < n_q ? args.heads : args.kv_heads;
  const std::int64_t at = (static_cast<std::int64_t>(row) * heads + head) * args.head_size + d;
  const float* from = i < n_q ? args.q : i < n_q + n_k ? args.k : args.v;
  Floats x = *reinterpret_cast<const Floats*>(from + at);
  Halves halves;
#pragma unroll
  for (int p = 0; p < Pairs; ++p) {
    const float a = x.at[2 * p], b = x.at[2 * p + 1];
    const float cosine = turn.at[2 * p], sine = turn.at[2 * p + 1];
    if (rotates) {
      x.at[2 * p] = fmaf(a, cosine, -__fmul_rn(b, sine));
      x.at[2 * p + 1] = fmaf(b, cosine, __fmul_rn(a, sine));
    }
    halves.at[p] = __floats2half2_rn(x.at[2 * p], x.at[2 * p + 1]);
  }
  if (i < n_q && args.q_out != nullptr) {
    *reinterpret_cast<Halves*>(static_cast<__half*>(args.q_out) + at) = halves;
  } else if (i >= n_q && slot >= 0) {
    const std::int64_t page = slot / pool.page_size, offset = slot % pool.page_size;
    __half* to = (i < n_q + n_k ? pool.keys : pool.values) +
                 (page * pool.kv_heads + head) * pool.page_size * pool.stride +
                 pool_offset(pool.stride, static_cast<int>(offset), d);
    *reinterpret_cast<Halves*>(to) = halves;
  } else if (i < n_q || args.v == nullptr) {
    *reinterpret_cast<Floats*>((i < n_q ? args.q : args.k) + at) = x;
  }
}

}  // namespace

cudaError_t launch_rope_store(const RopeStoreArgs& args, const LayerPool& pool,
                              const StepView& step, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const auto launch = [&](auto kernel, int values) {
    const unsigned across = static_cast<unsigned>(args.head_size / values);
    const dim3 block(across, std::max(1u, 256 / across));
    const unsigned heads = static_cast<unsigned>(args.heads + 2 * args.kv_heads);
    const dim3 grid(static_cast<unsigned>(args.rows), (heads + block.y - 1) / block.y);
    return launch_chained(kernel, grid, block, 0, stream, args, pool, step);
  };
  constexpr int kMany = 256;  // rows from which on moving them takes longer than starting
  if (args.rows >= kMany && args.head_size % 4 == 0 && args.rope_size % 4 == 0)
    return launch(rope_store<2>, 4);
  return launch(rope_store<1>, 2);
}

}  // namespace herd::cuda
