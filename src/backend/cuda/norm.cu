// Root-mean-square norm: one block a row, the order of its sum a function of the width alone.
#include "backend/cuda/async.cuh"
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float block_sum(float x) {
  __shared__ float warps[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = warps[0];
  for (int w = 1; w < kThreads / 32; ++w) sum += warps[w];
  return sum;
}

template <class Out>
__device__ void put(Out* out, float x);
template <>
__device__ void put(float* out, float x) {
  *out = x;
}
template <>
__device__ void put(__half* out, float x) {
  *out = __float2half_rn(x);
}

template <class Out>
__global__ void __launch_bounds__(kThreads)
    rms_norm(const float* x, const float* weight, Out* out, const std::int32_t* rows, int columns,
             float epsilon) {
  let_next_start();
  wait_for_inputs();
  const std::int64_t from = rows == nullptr ? blockIdx.x : rows[blockIdx.x];
  x += from * columns;
  out += static_cast<std::int64_t>(blockIdx.x) * columns;
  float sum = 0;
  for (int k = threadIdx.x; k < columns; k += kThreads) sum = fmaf(x[k], x[k], sum);
  const float mean = block_sum(sum) / static_cast<float>(columns);
  const float inverse = 1.0f / sqrtf(mean + epsilon);
  for (int k = threadIdx.x; k < columns; k += kThreads)
    put(out + k, __fmul_rn(__fmul_rn(x[k], inverse), weight[k]));
}

/// Columns in registers, four at a time: one pass over memory. REQUIRES: columns <= 4 * kThreads *
/// kQuads, a multiple of 4, and rows of f16 aligned to 8 bytes.
constexpr int kQuads = 8;
__global__ void __launch_bounds__(kThreads)
    rms_norm_wide(const float* x, const float* weight, __half* out, const std::int32_t* rows,
                  int columns, float epsilon) {
  const std::int64_t from = rows == nullptr ? blockIdx.x : rows[blockIdx.x];
  const auto* from4 = reinterpret_cast<const float4*>(x + from * columns);
  const auto* weight4 = reinterpret_cast<const float4*>(weight);
  const int quads = columns / 4;
  float4 v[kQuads], w[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {  // nobody writes them
    const int k = threadIdx.x + i * kThreads;
    w[i] = k < quads ? weight4[k] : float4{0, 0, 0, 0};
  }
  let_next_start();
  wait_for_inputs();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int k = threadIdx.x + i * kThreads;
    v[i] = k < quads ? from4[k] : float4{0, 0, 0, 0};
    sum = fmaf(v[i].x, v[i].x, sum), sum = fmaf(v[i].y, v[i].y, sum);
    sum = fmaf(v[i].z, v[i].z, sum), sum = fmaf(v[i].w, v[i].w, sum);
  }
  const float mean = block_sum(sum) / static_cast<float>(columns);
  const float inverse = 1.0f / sqrtf(mean + epsilon);
  auto* to = reinterpret_cast<uint2*>(out + static_cast<std::int64_t>(blockIdx.x) * columns);
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int k = threadIdx.x + i * kThreads;
    if (k >= quads) continue;
    const __half2 low = __floats2half2_rn(__fmul_rn(__fmul_rn(v[i].x, inverse), w[i].x),
                                          __fmul_rn(__fmul_rn(v[i].y, inverse), w[i].y));
    const __half2 high = __floats2half2_rn(__fmul_rn(__fmul_rn(v[i].z, inverse), w[i].z),
                                           __fmul_rn(__fmul_rn(v[i].w, inverse), w[i].w));
    to[k] = {reinterpret_cast<const unsigned&>(low), reinterpret_cast<const unsigned&>(high)};
  }
}

__global__ void to_half(const float* x, __half* out, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = __float2half_rn(x[i]);
}

}  // namespace

cudaError_t launch_rms_norm(const RmsNormArgs& a, const StepView& step, cudaStream_t stream) {
  if (a.rows == 0) return cudaSuccess;
  const std::int32_t* rows = a.of_logit_rows ? step.logit_rows : nullptr;
  const auto launch = [&](auto kernel, auto* out) {
    return launch_chained(kernel, a.rows, kThreads, 0, stream, a.x, a.weight, out, rows, a.columns,
                          a.epsilon);
  };
  auto* halves = static_cast<__half*>(a.out);
  if (a.f32_out) return launch(rms_norm<float>, static_cast<float*>(a.out));
  if (a.columns % 4 == 0 && a.columns <= 4 * kThreads * kQuads)
    return launch(rms_norm_wide, halves);
  return launch(rms_norm<__half>, halves);
}

void launch_to_half(const float* x, __half* out, std::int64_t n, cudaStream_t stream) {
  if (n > 0) to_half<<<static_cast<unsigned>((n + 255) / 256), 256, 0, stream>>>(x, out, n);
}

}  // namespace herd::cuda
