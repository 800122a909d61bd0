// The guide's separate stages, f32 in and out: a thread or a warp for each result.
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

using i64 = std::int64_t;

__device__ i64 index() {
  return static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
}
unsigned blocks_for(i64 n) {
  return static_cast<unsigned>((n + 255) / 256);
}

__global__ void swiglu(SwigluArgs a) {
  const i64 i = index();
  if (i < a.n) a.out[i] = a.gate[i] / (1.0f + expf(-a.gate[i])) * a.up[i];
}
__global__ void add(AddArgs a) {
  const i64 i = index();
  if (i < a.n) a.out[i] = a.a[i] + a.b[i];
}
__global__ void attention_scores(AttentionScoresArgs a, const std::int32_t* start) {
  const i64 at = index();
  if (at >= static_cast<i64>(a.batch) * a.heads * a.queries * a.keys) return;
  const i64 j = at % a.keys, i = at / a.keys % a.queries, h = at / a.keys / a.queries % a.heads;
  const i64 b = at / a.keys / a.queries / a.heads;
  const float* q = a.q + ((b * a.queries + i) * a.heads + h) * a.head_size;
  const float* k = a.k + ((b * a.keys + j) * a.kv_heads + h / (a.heads / a.kv_heads)) * a.head_size;
  float sum = 0;
  for (int d = 0; d < a.head_size; ++d) sum = fmaf(q[d], k[d], sum);
  a.scores[at] = j <= start[b] + i ? sum * a.scale : -__builtin_inff();
}

/// One warp a row.
template <class Each, class Join>
__device__ float row_reduce(const float* x, int n, float first, Each&& each, Join&& join) {
  float result = first;
  for (int j = threadIdx.x % 32; j < n; j += 32) result = join(result, each(x[j]));
  for (int step = 16; step > 0; step /= 2)
    result = join(result, __shfl_xor_sync(0xffffffffu, result, step));
  return result;
}
__device__ i64 warp_row() {
  return static_cast<i64>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
}
__device__ float larger(float a, float b) {
  return b > a ? b : a;
}
__global__ void softmax_max(SoftmaxArgs a) {
  const i64 row = warp_row();
  if (row >= a.rows) return;
  const float largest = row_reduce(
      a.x + row * a.columns, a.columns, -__builtin_inff(), [](float x) { return x; }, larger);
  if (threadIdx.x % 32 == 0) a.max[row] = largest + 0.0f;
}
__global__ void softmax_exp_sum(SoftmaxArgs a) {
  const i64 row = warp_row();
  if (row >= a.rows) return;
  float* x = a.x + row * a.columns;
  const float max = a.max[row];
  for (int j = threadIdx.x % 32; j < a.columns; j += 32) x[j] = expf(x[j] - max);
  const float sum = row_reduce(
      x, a.columns, 0.0f, [](float y) { return y; }, [](float u, float v) { return u + v; });
  if (threadIdx.x % 32 == 0) a.sum[row] = sum;
}
__global__ void softmax_normalize(SoftmaxArgs a) {
  const i64 i = index();
  if (i < a.rows * a.columns) a.x[i] /= a.sum[i / a.columns];
}
__global__ void apply_attention(ApplyAttentionArgs a) {
  const i64 at = index();
  if (at >= static_cast<i64>(a.batch) * a.queries * a.heads * a.head_size) return;
  const i64 d = at % a.head_size, h = at / a.head_size % a.heads;
  const i64 i = at / a.head_size / a.heads % a.queries;
  const i64 b = at / a.head_size / a.heads / a.queries;
  const float* weights = a.weights + ((b * a.heads + h) * a.queries + i) * a.keys;
  float sum = 0;
  for (i64 j = 0; j < a.keys; ++j)
    sum = fmaf(weights[j],
               a.v[((b * a.keys + j) * a.kv_heads + h / (a.heads / a.kv_heads)) * a.head_size + d],
               sum);
  a.out[at] = sum;
}

}  // namespace

void launch_swiglu(const SwigluArgs& a, cudaStream_t stream) {
  if (a.n > 0) swiglu<<<blocks_for(a.n), 256, 0, stream>>>(a);
}
void launch_add(const AddArgs& a, cudaStream_t stream) {
  if (a.n > 0) add<<<blocks_for(a.n), 256, 0, stream>>>(a);
}
void launch_attention_scores(const AttentionScoresArgs& a, const std::int32_t* start,
                             cudaStream_t stream) {
  const i64 n = i64{1} * a.batch * a.heads * a.queries * a.keys;
  if (n > 0) attention_scores<<<blocks_for(n), 256, 0, stream>>>(a, start);
}
void launch_softmax_max(const SoftmaxArgs& a, cudaStream_t stream) {
  if (a.rows > 0 && a.columns > 0) softmax_max<<<blocks_for(a.rows * 32), 256, 0, stream>>>(a);
}
void launch_softmax_exp_sum(const SoftmaxArgs& a, cudaStream_t stream) {
  if (a.rows > 0) softmax_exp_sum<<<blocks_for(a.rows * 32), 256, 0, stream>>>(a);
}
void launch_softmax_normalize(const SoftmaxArgs& a, cudaStream_t stream) {
  const i64 n = a.rows * a.columns;
  if (n > 0) softmax_normalize<<<blocks_for(n), 256, 0, stream>>>(a);
}
void launch_apply_attention(const ApplyAttentionArgs& a, cudaStream_t stream) {
  const i64 n = i64{1} * a.batch * a.queries * a.heads * a.head_size;
  if (n > 0) apply_attention<<<blocks_for(n), 256, 0, stream>>>(a);
}

}  // namespace herd::cuda
