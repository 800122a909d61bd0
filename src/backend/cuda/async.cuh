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

// ---- blocks of a cluster; on compute capability 8.x there are none ----

/// This block's place in its cluster.
__device__ __forceinline__ int cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}
/// All threads: this block's barriers are published. Behind cluster_wait() those of the others are.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}
/// All threads: what they read and wrote before comes before what the others do next.
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
  cluster_wait();
}
/// Where the block of this rank keeps what this one keeps at `address` of its shared memory.
__device__ __forceinline__ unsigned in_cluster(unsigned address, int rank) {
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
#endif
  return address;
}
/// Four bytes on their way to a block's shared memory; `barrier` there completes when they are.
__device__ __forceinline__ void send(unsigned to, float value, unsigned barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
      "r"(__float_as_uint(value)), "r"(barrier)
      : "memory");
#endif
}
/// wait_full() for what another block sent.
__device__ __forceinline__ void wait_sent(unsigned barrier, unsigned parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra again;}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// ---- host ----

/// Launches a kernel that lets its successor start and waits for its inputs (see above), in
/// clusters of so many blocks (1 on compute capability 8.x).
template <class... Parameters, class... Arguments>
cudaError_t launch_clusters(void (*kernel)(Parameters...), int cluster, dim3 grid, dim3 block,
                            int shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block;
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = major < 9 ? 0 : cluster == 1 ? 1 : 2;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
template <class... Parameters, class... Arguments>
cudaError_t launch_chained(void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes,
                           cudaStream_t stream, const Arguments&... arguments) {
  return launch_clusters(kernel, 1, grid, block, shared_bytes, stream, arguments...);
}

#endif  // __CUDACC__

}  // namespace herd::cuda
