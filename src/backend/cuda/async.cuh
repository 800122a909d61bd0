// Copies to shared memory that a barrier there completes, and launches that begin before the
// kernel in front of them has ended. On compute capability 8.x the copies are cp.async of every
// lane, and launches wait their turn.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace herd::cuda {

#ifdef __CUDACC__

/// The kernel before this one in the stream has ended and its writes are visible.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The kernel after this one may begin as soon as every block has said so. Every kernel that is
/// launched with launch_chained says it, and waits for its inputs before it reads or writes what
/// another kernel of the step writes or reads.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
/// 16 bytes, or zeros where `valid` is false.
__device__ __forceinline__ void copy_16(unsigned to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0));
}

// ---- one warp's copies: announce(), copies, copied() by all of its lanes ----

#if __CUDA_ARCH__ >= 900
constexpr int kArrivals = 1;  // one lane announces the bytes of bulk copies
#else
constexpr int kArrivals = 32;  // every lane's own copies
#endif
__device__ __forceinline__ void init_barrier(unsigned barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(kArrivals) : "memory");
}
/// After the barriers' initialisation, by the threads that did it. For shared memory alone: a fence
/// of all memory waits for the whole card.
__device__ __forceinline__ void publish_barriers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_full(unsigned barrier, unsigned parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra again;}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#else
  asm volatile(
      "{.reg .pred p;\n"
      "again: mbarrier.test_wait.parity.shared.b64 p, [%0], %1;\n"
      "@!p bra again;}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}
/// `bytes` in all are about to be copied.
__device__ __forceinline__ void announce(unsigned barrier, int bytes, int lane) {
#if __CUDA_ARCH__ >= 900
  if (lane == 0)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
#endif
}
/// For bulk copies of what a step reads once: lines that the L2 cache lets go first.
using CachePolicy = unsigned long long;
__device__ __forceinline__ CachePolicy read_once() {
  CachePolicy policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
  return policy;
}

/// `bytes`, a multiple of 16, on their way to shared memory; nobody reads them again soon.
__device__ __forceinline__ void copy_run(unsigned to, const void* from, int bytes, unsigned barrier,
                                         int lane) {
#if __CUDA_ARCH__ >= 900
  if (lane == 0)
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
        "[%1], %2, [%3], %4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "l"(read_once())
        : "memory");
#else
  for (int i = 16 * lane; i < bytes; i += 16 * 32)
    copy_16(to + i, static_cast<const std::uint8_t*>(from) + i, true);
#endif
}
/// The barrier completes when what was copied since announce() is there.
__device__ __forceinline__ void copied(unsigned barrier) {
#if __CUDA_ARCH__ < 900
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

// ---- host ----

/// Launches a kernel that lets its successor start and waits for its inputs (see above).
template <class... Parameters, class... Arguments>
cudaError_t launch_chained(void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes,
                           cudaStream_t stream, const Arguments&... arguments) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block;
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = major >= 9 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

#endif  // __CUDACC__

}  // namespace herd::cuda
