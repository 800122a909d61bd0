// Rotation of queries and keys; keys and values go to their slots of the pool in the same pass.
#include "backend/cuda/async.cuh"
#include "backend/cuda/attention_tile.cuh"
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

struct Pair {
  float a, b;
};

/// A thread is one pair of a head; a block takes heads of one row: those of q, then of k, then v.
__global__ void rope_store(RopeStoreArgs args, LayerPool pool, StepView step) {
  const int row = blockIdx.x, d = 2 * threadIdx.x, half = args.head_size / 2;
  const int n_q = args.q != nullptr ? args.heads : 0;
  const int n_k = args.k != nullptr ? args.kv_heads : 0;
  const int n_v = args.v != nullptr ? args.kv_heads : 0;
  const int i = blockIdx.y * blockDim.y + threadIdx.y;
  // What the step knows beforehand is looked up while the products still run.
  const std::int32_t slot = args.v != nullptr ? step.slots[row] : -1;
  const bool rotates = i < n_q + n_k && d < args.rope_size;
  float2 turn = {1, 0};
  if (rotates)
    turn = reinterpret_cast<const float2*>(
        args.table + static_cast<std::int64_t>(step.positions[row]) * args.rope_size)[threadIdx.x];
  let_next_start();
  wait_for_inputs();
  if (threadIdx.x >= half || i >= n_q + n_k + n_v) return;

  const int head = i < n_q ? i : i < n_q + n_k ? i - n_q : i - n_q - n_k;
  const int heads = i < n_q ? args.heads : args.kv_heads;
  const std::int64_t at = (static_cast<std::int64_t>(row) * heads + head) * args.head_size + d;
  const float* from = i < n_q ? args.q : i < n_q + n_k ? args.k : args.v;
  Pair x = {from[at], from[at + 1]};
  if (rotates)
    x = {fmaf(x.a, turn.x, -__fmul_rn(x.b, turn.y)), fmaf(x.b, turn.x, __fmul_rn(x.a, turn.y))};
  const __half2 halves = __floats2half2_rn(x.a, x.b);
  if (i < n_q) {
    if (args.q_out != nullptr)
      reinterpret_cast<__half2*>(static_cast<__half*>(args.q_out) + at)[0] = halves;
    else
      args.q[at] = x.a, args.q[at + 1] = x.b;
  } else if (slot >= 0) {
    const std::int64_t page = slot / pool.page_size, offset = slot % pool.page_size;
    __half* to = (i < n_q + n_k ? pool.keys : pool.values) +
                 (page * pool.kv_heads + head) * pool.page_size * pool.stride +
                 pool_offset(pool.stride, static_cast<int>(offset), d);
    reinterpret_cast<__half2*>(to)[0] = halves;
  } else if (args.v == nullptr) {
    args.k[at] = x.a, args.k[at + 1] = x.b;
  }
}

}  // namespace

cudaError_t launch_rope_store(const RopeStoreArgs& args, const LayerPool& pool,
                              const StepView& step, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const int heads = args.heads + 2 * args.kv_heads, half = args.head_size / 2;
  const dim3 block(static_cast<unsigned>((half + 31) / 32 * 32), half <= 64 ? 4 : 1);
  const dim3 grid(static_cast<unsigned>(args.rows),
                  (static_cast<unsigned>(heads) + block.y - 1) / block.y);
  return launch_chained(rope_store, grid, block, 0, stream, args, pool, step);
}

}  // namespace herd::cuda
