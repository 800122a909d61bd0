// What matmul.cu hands to its two kernels: stream.cu (mma.sync, weights through registers, few
// rows) and wgmma.cu (Hopper, many rows).
#pragma once

#include "backend/cuda/async.cuh"
#include "backend/cuda/formats.cuh"
#include "backend/cuda/matmul.h"

namespace herd::cuda {

/// A call whose matrices need several launches: they run side by side. The first lets the next
/// start only once its own inputs are there, which are theirs too; the others wait for the one
/// before them at their end.
enum class Turn { only, first, other };

/// Blocks that share an item: who has left its sums, who adds them up, who is done. Zero between
/// calls.
struct Meeting {
  unsigned arrived, claimed, left, unused;
};

/// Matrices of one layout and one number of chains that share their input.
struct Work {
  struct Matrix {
    const std::uint8_t* data;
    void* out;
    int n, stride;  // outputs; elements between rows of out
  } matrix[3];
  int n_matrices;
  int chains, k_tiles;
  const __half* x;
  int rows, columns;
  Epilogue epilogue;
  Turn turn;
  int multiprocessors;  // its share of them, where launches run side by side
  // Where blocks leave the sums of chains for each other.
  Meeting* meetings;
  float* partials;
  long long n_meetings, n_partials;
};

constexpr int kMostChains = 8;

/// The tiles of chain c are [first, first + count): as even as whole tiles allow, longer ones
/// first.
struct ChainRange {
  int first, count;
};
__host__ __device__ inline ChainRange chain_range(int k_tiles, int chains, int c) {
  const int base = k_tiles / chains, longer = k_tiles % chains;
  return {c * base + (c < longer ? c : longer), base + (c < longer ? 1 : 0)};
}

struct DeviceLimits {
  int multiprocessors = 0, shared_bytes = 0;
  bool wgmma = false;  // a Hopper, and code for it
};

// Instantiated per layout in layouts_*.cu, so that they compile side by side.
template <Layout L>
cudaError_t stream_matmul(const Work& work, const DeviceLimits& device, cudaStream_t stream);
template <Layout L>
cudaError_t wgmma_matmul(const Work& work, const DeviceLimits& device, cudaStream_t stream);

#ifdef __CUDACC__
__device__ __forceinline__ float silu(float g) {
  return g / (1.0f + __expf(-g));
}

__device__ __forceinline__ void store(Epilogue epilogue, void* out, long long at, float value) {
  if (epilogue == Epilogue::F32) {
    static_cast<float*>(out)[at] = value;
  } else if (epilogue == Epilogue::F32_ADD) {
    // Nobody waits for what stood there.
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(
                     __cvta_generic_to_global(static_cast<float*>(out) + at)),
                 "f"(value)
                 : "memory");
  } else {
    static_cast<__half*>(out)[at] = __float2half_rn(value);
  }
}
#endif

}  // namespace herd::cuda
