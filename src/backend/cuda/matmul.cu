// Checks a call, sorts its matrices into groups that one launch can take, chooses the kernel.
#include <algorithm>

#include "backend/cuda/matmul_kernels.cuh"

namespace herd::cuda {
namespace {

constexpr int kMaxRows = 65535 * 32;

/// A workspace holds meetings and sums of chains, for each of three launches that run side by side,
/// and then gate and up where they cannot meet in one kernel.
constexpr int kMeetings = 1024;
constexpr std::size_t kMeetingBytes = 3 * kMeetings * sizeof(Meeting);
constexpr std::size_t kPartialBytes = std::size_t{34} << 20;

__global__ void swiglu_kernel(const float* gate, const float* up, __half* out, int n, int stride) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const long long at = static_cast<long long>(blockIdx.y) * n + i;
  out[static_cast<long long>(blockIdx.y) * stride + i] = __float2half_rn(silu(gate[at]) * up[at]);
}

bool valid(const MatmulCall& call) {
  if (call.n_weights < 1 || call.n_weights > 3 || call.rows < 1 || call.rows > kMaxRows ||
      call.x == nullptr)
    return false;
  for (int i = 0; i < call.n_weights; ++i) {
    const PackedMatrix* w = call.weights[i];
    if (w == nullptr || w->data == nullptr || w->rows < 1 || w->columns < 32 ||
        w->columns % 32 != 0 || w->columns != call.weights[0]->columns)
      return false;
    if (call.out[i] == nullptr && (i == 0 || call.epilogue != Epilogue::SWIGLU_F16)) return false;
  }
  return call.epilogue != Epilogue::SWIGLU_F16 ||
         (call.n_weights == 2 && call.weights[0]->rows == call.weights[1]->rows);
}

/// Gate and up of different layouts or chains cannot meet in one kernel.
bool swiglu_apart(const MatmulCall& call) {
  return call.epilogue == Epilogue::SWIGLU_F16 && call.n_weights == 2 &&
         layout_of(call.weights[0]->type) != layout_of(call.weights[1]->type);
}

/// Says whether this device runs code compiled for sm_90a: only that has shared memory here.
__global__ void hopper_probe(int* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ int mark[32];
  mark[threadIdx.x % 32] = static_cast<int>(threadIdx.x);
  __syncthreads();
  *out = mark[(threadIdx.x + 1) % 32];
#endif
}

cudaError_t device_limits(DeviceLimits& limits) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto get = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
  };
  get(limits.multiprocessors, cudaDevAttrMultiProcessorCount);
  get(limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return error == cudaSuccess ? runs_wgmma(limits.wgmma) : error;
}

template <Layout L>
cudaError_t run_layout(Path path, const Work& work, const DeviceLimits& limits,
                       cudaStream_t stream) {
  if (path == Path::wgmma && !limits.wgmma) return cudaErrorInvalidDevice;
  // Inputs of more than eight rows of a long matrix do not fit beside the ring of few rows.
  const int few = work.columns >= 8192 ? 8 : 16;
  if (path == Path::wgmma || (path == Path::automatic && limits.wgmma && work.rows > few))
    return wgmma_matmul<L>(work, limits, stream);
  return stream_matmul<L>(work, limits, stream);
}
cudaError_t run(Path path, Layout layout, const Work& work, const DeviceLimits& limits,
                cudaStream_t stream) {
  switch (layout) {
#define HERD_LAYOUT(L) \
  case Layout::L: return run_layout<Layout::L>(path, work, limits, stream);
    HERD_LAYOUT(F16)
    HERD_LAYOUT(Q8)
    HERD_LAYOUT(Q4)
    HERD_LAYOUT(Q4M)
    HERD_LAYOUT(Q5)
    HERD_LAYOUT(Q5M) HERD_LAYOUT(K4) HERD_LAYOUT(K5) HERD_LAYOUT(K6) HERD_LAYOUT(K2) HERD_LAYOUT(K8)
#undef HERD_LAYOUT
  }
  return cudaErrorInvalidValue;
}

long long bytes_of(const PackedMatrix& m) {
  return packed_bytes(m.type, m.rows, m.columns);
}

/// The workspace, handed to one launch after the other.
struct Room {
  Meeting* meetings = nullptr;
  float* partials = nullptr;

  explicit Room(const MatmulCall& call) {
    if (call.workspace == nullptr || call.workspace_size < kMeetingBytes + kPartialBytes) return;
    meetings = static_cast<Meeting*>(call.workspace);
    partials = reinterpret_cast<float*>(static_cast<std::byte*>(call.workspace) + kMeetingBytes);
  }
  void give(Work& work, bool only) {
    if (meetings == nullptr) return;
    work.meetings = meetings, work.partials = partials;
    work.n_meetings = kMeetings;
    work.n_partials = static_cast<long long>(kPartialBytes / 256) / (only ? 1 : 3) * 64;
    meetings += work.n_meetings, partials += work.n_partials;
  }
};

}  // namespace

int chains(quant::Type type, int rows, int columns) {
  const int wanted = rows > 8192 ? 1 : columns >= 8192 ? kMostChains : 4;
  const int tiles = (columns + tile_k(layout_of(type)) - 1) / tile_k(layout_of(type));
  int c = 1;
  while (2 * c <= wanted && 2 * c <= tiles && 512 * c <= columns) c *= 2;
  return c;
}

std::size_t workspace_bytes(int rows, int outputs) {
  return kMeetingBytes + kPartialBytes +
         sizeof(float) * 2 * static_cast<std::size_t>(rows) * static_cast<std::size_t>(outputs);
}

cudaError_t runs_wgmma(bool& result) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess || major != 9) return error;
  cudaFuncAttributes probe;
  error = cudaFuncGetAttributes(&probe, hopper_probe);
  result = error == cudaSuccess && probe.sharedSizeBytes > 0;
  return error;
}

cudaError_t matmul_on(Path path, const MatmulCall& call, cudaStream_t stream) {
  if (!valid(call)) return cudaErrorInvalidValue;
  DeviceLimits limits;
  cudaError_t error = device_limits(limits);
  if (error != cudaSuccess) return error;

  if (swiglu_apart(call)) {
    const int n = call.weights[0]->rows;
    if (call.workspace == nullptr || call.workspace_size < workspace_bytes(call.rows, n))
      return cudaErrorInvalidValue;
    float* gate = reinterpret_cast<float*>(static_cast<std::byte*>(call.workspace) + kMeetingBytes +
                                           kPartialBytes);
    float* up = gate + static_cast<long long>(call.rows) * n;
    MatmulCall both = call;
    both.epilogue = Epilogue::F32;
    both.out[0] = gate, both.out[1] = up;
    both.out_stride[0] = both.out_stride[1] = n;
    error = matmul_on(path, both, stream);
    if (error != cudaSuccess) return error;
    const int stride = call.out_stride[0] != 0 ? call.out_stride[0] : n;
    for (int row = 0; row < call.rows; row += 65535) {
      const dim3 grid((n + 255) / 256, std::min(call.rows - row, 65535));
      const long long at = static_cast<long long>(row) * n;
      swiglu_kernel<<<grid, 256, 0, stream>>>(
          gate + at, up + at,
          static_cast<__half*>(call.out[0]) + static_cast<long long>(row) * stride, n, stride);
    }
    return cudaGetLastError();
  }

  bool done[3] = {};
  long long all_bytes = 0;
  for (int i = 0; i < call.n_weights; ++i) all_bytes += bytes_of(*call.weights[i]);
  Room room(call);
  for (int i = 0; i < call.n_weights; ++i) {
    if (done[i]) continue;
    const PackedMatrix& lead = *call.weights[i];
    const Layout layout = layout_of(lead.type);
    Work work{};
    work.chains = chains(lead.type, lead.rows, lead.columns);
    work.k_tiles = (lead.columns + tile_k(layout) - 1) / tile_k(layout);
    work.x = call.x, work.rows = call.rows, work.columns = lead.columns;
    work.epilogue = call.epilogue;
    work.turn = i > 0 ? Turn::other : Turn::only;
    long long bytes = 0;
    for (int j = i; j < call.n_weights; ++j) {
      const PackedMatrix& m = *call.weights[j];
      if (done[j] || layout_of(m.type) != layout ||
          chains(m.type, m.rows, m.columns) != work.chains)
        continue;
      done[j] = true;
      bytes += bytes_of(m);
      work.matrix[work.n_matrices++] = {static_cast<const std::uint8_t*>(m.data), call.out[j],
                                        m.rows,
                                        call.out_stride[j] != 0 ? call.out_stride[j] : m.rows};
    }
    if (i == 0 && work.n_matrices < call.n_weights) work.turn = Turn::first;
    work.multiprocessors =
        std::max(1, static_cast<int>(bytes * limits.multiprocessors / all_bytes));
    room.give(work, work.n_matrices == call.n_weights);
    error = run(path, layout, work, limits, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t matmul(const MatmulCall& call, cudaStream_t stream) {
  return matmul_on(Path::automatic, call, stream);
}

}  // namespace herd::cuda
