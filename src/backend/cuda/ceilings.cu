// What the device can do, measured: reading memory, and a large product of halves.
#include <algorithm>
#include <functional>

#include "backend/cuda/cuda.h"
#include "herd/ceilings.h"

namespace herd {
namespace cuda {
namespace {

constexpr std::int64_t kReadBytes = std::int64_t{2} << 30;  // far beyond the L2 cache
constexpr int kSize = 8192;

__global__ void __launch_bounds__(512) read_all(const uint4* data, std::int64_t n, unsigned* sink) {
  unsigned sum = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * 512 + threadIdx.x; i < n;
       i += static_cast<std::int64_t>(gridDim.x) * 512) {
    const uint4 v = data[i];
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *sink = sum;  // so that the reads are not left out
}

/// Small numbers of both signs: zeros would run faster than real data.
__global__ void fill(__half* out, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n)
    out[i] = __float2half_rn(static_cast<float>(static_cast<int>(i * 2654435761u >> 20) - 2048) *
                             0x1p-12f);
}

/// The shortest of several runs, in seconds; 0 if one failed.
double best_seconds(cudaStream_t stream, const std::function<void()>& work) {
  cudaEvent_t start, end;
  if (cudaEventCreate(&start) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess) return 0;
  float best = 1e30f;
  for (int i = 0; i < 6; ++i) {
    cudaEventRecord(start, stream);
    work();
    cudaEventRecord(end, stream);
    if (cudaEventSynchronize(end) != cudaSuccess) return 0;
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, start, end);
    if (i > 0) best = std::min(best, milliseconds);
  }
  cudaEventDestroy(start), cudaEventDestroy(end);
  return best * 1e-3;
}

}  // namespace
}  // namespace cuda

Result<MeasuredCeilings> measure_cuda_ceilings() {
  using namespace cuda;
  const auto backend = make_cuda_backend({DeviceType::cuda});
  if (!backend.ok()) return backend.error();
  MeasuredCeilings out;
  const cudaStream_t stream = nullptr;
  const std::int64_t values = std::int64_t{kSize} * kSize;
  const DeviceBytes data = allocate_device(kReadBytes);
  PackedMatrix w;
  w.type = quant::Type::F16, w.rows = w.columns = kSize;
  w.bytes = packed_bytes(w.type, kSize, kSize);
  const DeviceBytes packed = allocate_device(w.bytes);
  if (data == nullptr || packed == nullptr)
    return Error{Code::resource_exhausted, "ceilings: no device memory"};
  auto* halves = reinterpret_cast<__half*>(data.get());
  fill<<<static_cast<unsigned>(values / 256), 256, 0, stream>>>(halves, values);
  double seconds = best_seconds(stream, [&] {
    read_all<<<1056, 512, 0, stream>>>(reinterpret_cast<const uint4*>(data.get()), kReadBytes / 16,
                                       reinterpret_cast<unsigned*>(packed.get()));
  });
  out.read_bytes_per_second = seconds > 0 ? static_cast<double>(kReadBytes) / seconds : 0;
  w.data = packed.get();
  pack(w, halves, 0, kSize, stream);
  MatmulCall call;
  call.weights[0] = &w, call.n_weights = 1;
  call.x = halves, call.rows = kSize;
  call.out[0] = halves + values;
  call.epilogue = cuda::Epilogue::F16;
  seconds = best_seconds(stream, [&] { cuda::matmul(call, stream); });
  out.flops_per_second = seconds > 0 ? 2.0 * kSize * kSize * kSize / seconds : 0;
  if (const cudaError_t error = cudaDeviceSynchronize(); error != cudaSuccess || seconds == 0)
    return Error{Code::internal, std::string("ceilings: ") + cudaGetErrorString(error)};
  return out;
}

}  // namespace herd
