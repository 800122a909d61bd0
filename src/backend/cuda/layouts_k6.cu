// The kernels for some of the layouts; each file compiles on its own.
#include "backend/cuda/stream.cuh"
#include "backend/cuda/wgmma.cuh"

namespace herd::cuda {

template cudaError_t stream_matmul<Layout::K6>(const Work&, const DeviceLimits&, cudaStream_t);
template cudaError_t wgmma_matmul<Layout::K6>(const Work&, const DeviceLimits&, cudaStream_t);

}  // namespace herd::cuda
