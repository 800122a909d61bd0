// The plain version: a warp per output and row.
#include "backend/cuda/blocks.cuh"
#include "backend/cuda/matmul.h"

namespace herd::cuda {
namespace {

__device__ float dot(const PackedMatrix& m, int n, const __half* x) {
  const char* row =
      static_cast<const char*>(m.data) + static_cast<std::int64_t>(n) * (m.bytes / m.rows);
  float sum = 0;
  for (int k = threadIdx.x; k < m.columns; k += 32)
    sum = fmaf(__half2float(__float2half_rn(value_at(m.type, row, k))), __half2float(x[k]), sum);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  return sum;
}

__global__ void plain(PackedMatrix m, PackedMatrix up, const __half* x, void* out,
                      Epilogue epilogue) {
  const int n = blockIdx.y * blockDim.y + threadIdx.y, row = blockIdx.x;
  if (n >= m.rows) return;
  x += static_cast<std::int64_t>(row) * m.columns;
  const float y = dot(m, n, x);
  const std::int64_t at = static_cast<std::int64_t>(row) * m.rows + n;
  if (epilogue == Epilogue::SWIGLU_F16) {
    const float u = dot(up, n, x);
    if (threadIdx.x == 0)
      static_cast<__half*>(out)[at] = __float2half_rn(y / (1.0f + expf(-y)) * u);
  } else if (threadIdx.x == 0) {
    if (epilogue == Epilogue::F16) static_cast<__half*>(out)[at] = __float2half_rn(y);
    if (epilogue == Epilogue::F32) static_cast<float*>(out)[at] = y;
    if (epilogue == Epilogue::F32_ADD) static_cast<float*>(out)[at] += y;
  }
}

}  // namespace

long long packed_bytes(quant::Type type, long long rows, long long columns) {
  return rows * quant::row_bytes(type, columns);
}
cudaError_t pack(PackedMatrix& m, const void* raw, int first_row, int n_rows,
                 cudaStream_t stream) {
  const std::int64_t row = m.bytes / m.rows;
  return cudaMemcpyAsync(static_cast<char*>(m.data) + first_row * row, raw,
                         static_cast<std::size_t>(n_rows * row), cudaMemcpyDeviceToDevice, stream);
}
std::size_t workspace_bytes(const MatmulCall&) {
  return 0;
}
cudaError_t matmul(const MatmulCall& call, cudaStream_t stream) {
  const bool swiglu = call.epilogue == Epilogue::SWIGLU_F16;
  for (int i = 0; i < (swiglu ? 1 : call.n_weights); ++i) {
    const PackedMatrix& m = *call.weights[i];
    const dim3 grid(static_cast<unsigned>(call.rows), static_cast<unsigned>((m.rows + 7) / 8));
    plain<<<grid, dim3(32, 8), 0, stream>>>(m, *call.weights[swiglu ? 1 : i], call.x, call.out[i],
                                            call.epilogue);
  }
  return cudaGetLastError();
}

}  // namespace herd::cuda
