// Rows of the embedding table, dequantised.
#include "backend/cuda/blocks.cuh"
#include "backend/cuda/kernels.h"

namespace herd::cuda {
namespace {

__global__ void embed(RawMatrix table, StepView step, float* out) {
  const int row = blockIdx.x;
  std::int32_t id = step.ids[row];
  if (id < 0) id = step.sampled[-1 - id];  // what the step before chose
  id = min(max(id, 0), table.rows - 1);    // a failed choice ends its sequence on the host
  const char* blocks = static_cast<const char*>(table.data) + id * table.row_bytes;
  out += static_cast<std::int64_t>(row) * table.columns;
  const int k = blockIdx.y * blockDim.x + threadIdx.x;
  if (k < table.columns) out[k] = value_at(table.type, blocks, k) + 0.0f;
}

}  // namespace

void launch_embed(const RawMatrix& table, const StepView& step, float* out, int rows,
                  cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>((table.columns + 255) / 256));
  embed<<<grid, 256, 0, stream>>>(table, step, out);
}

}  // namespace herd::cuda
