// Rotation of queries and keys; keys and values go to their slots of the pool in the same pass.
#include "backend/cuda/async.cuh"
#include "backend/cuda/attention_tile.cuh"
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

struct Pair {
  float a, b;
};

__global__ void rope_store(RopeStoreArgs args, LayerPool pool, StepView step) {
  let_next_start();
  wait_for_inputs();
  const int row = blockIdx.x;
  const std::int32_t slot = args.v != nullptr ? step.slots[row] : -1;
  if (args.v != nullptr && slot < 0 && args.q == nullptr) return;
  const float* table =
      args.rope_size > 0
          ? args.table + static_cast<std::int64_t>(step.positions[row]) * args.rope_size
          : nullptr;
  const int half = args.head_size / 2;
  const int n_q = args.q != nullptr ? args.heads * half : 0;
  const int n_k = args.k != nullptr ? args.kv_heads * half : 0;
  const int n_v = args.v != nullptr ? args.kv_heads * half : 0;
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < n_q + n_k + n_v;
       i += gridDim.y * blockDim.x) {
    const int j = i < n_q ? i : i < n_q + n_k ? i - n_q : i - n_q - n_k;
    const int head = j / half, d = j % half * 2;
    const int heads = i < n_q ? args.heads : args.kv_heads;
    const std::int64_t at = (static_cast<std::int64_t>(row) * heads + head) * args.head_size + d;
    const float* from = i < n_q ? args.q : i < n_q + n_k ? args.k : args.v;
    Pair x = {from[at], from[at + 1]};
    if (i < n_q + n_k && d < args.rope_size) {
      const float c = table[d], s = table[d + 1];
      x = {fmaf(x.a, c, -__fmul_rn(x.b, s)), fmaf(x.b, c, __fmul_rn(x.a, s))};
    }
    const __half2 halves = __floats2half2_rn(x.a, x.b);
    if (i < n_q) {
      if (args.q_out != nullptr)
        reinterpret_cast<__half2*>(static_cast<__half*>(args.q_out) + at)[0] = halves;
      else
        args.q[at] = x.a, args.q[at + 1] = x.b;
    } else if (slot >= 0) {
      const std::int64_t page = slot / pool.page_size, offset = slot % pool.page_size;
      __half* to = (i < n_q + n_k ? pool.keys : pool.values) +
                   ((page * pool.kv_heads + head) * pool.page_size + offset) * pool.stride;
      const int chunk = swizzled(pool.stride, static_cast<int>(offset), d / 8);
      reinterpret_cast<__half2*>(to + 8 * chunk + d % 8)[0] = halves;
    } else if (args.v == nullptr) {
      args.k[at] = x.a, args.k[at + 1] = x.b;
    }
  }
}

}  // namespace

cudaError_t launch_rope_store(const RopeStoreArgs& args, const LayerPool& pool,
                              const StepView& step, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const int pairs = (args.heads + 2 * args.kv_heads) * args.head_size / 2;
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>((pairs + 1023) / 1024));
  return launch_chained(rope_store, grid, 256, 0, stream, args, pool, step);
}

}  // namespace herd::cuda
