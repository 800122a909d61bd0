#include "backend/cuda/matmul_kernels.cuh"
namespace herd::cuda {
cudaError_t wgmma_matmul(Layout layout, const Work& work, const DeviceLimits& device,
                         cudaStream_t stream) {
  return stream_matmul(layout, work, device, stream);
}
}  // namespace herd::cuda
