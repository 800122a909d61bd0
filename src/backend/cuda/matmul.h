// The matrix products of the CUDA backend: weights of every GGUF type in the device's own order,
// one kernel family from one row to thousands.
//
// Numerics: a weight is dequantised to the nearest half (docs/numerics.md, "CUDA"), activations are
// halves, sums are f32. A matrix's inputs are cut into `chains(N, K)` runs; each run is summed in
// ascending order by one accumulator of the matrix unit, and the runs are added in order. Neither
// depends on how many rows there are, so a row's bits are the same alone and in any batch.
//
// Nothing here allocates, synchronises or keeps state; every call may be captured in a CUDA graph.
// From compute capability 9.0 on, a product may fetch weights while the kernel before it in the
// stream still runs (programmatic dependent launch): wait for the stream once between pack() and
// the first matmul(). Activations, outputs and workspace are not touched before that kernel has
// ended. Matrices of one call that need several launches run side by side.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>

#include "quant/types.h"

namespace herd::cuda {

/// A weight matrix in device order. The caller owns `data` (256-byte aligned, packed_bytes() long).
struct PackedMatrix {
  quant::Type type = quant::Type::F32;
  int rows = 0;     // outputs, N
  int columns = 0;  // inputs, K: a multiple of 32 and of the type's block
  void* data = nullptr;
  long long bytes = 0;
  /// Device word, or nullptr: set to 1 by pack() if an F32 or BF16 value has no finite half.
  unsigned* overflow = nullptr;
};

/// Bytes of `data` for such a matrix.
long long packed_bytes(quant::Type type, long long rows, long long columns);

/// Repacks raw GGUF blocks of rows [first_row, first_row + n_rows), which stand one row after the
/// other at `raw` on the device. REQUIRES: first_row is a multiple of 64, and n_rows too unless the
/// slab ends the matrix; rows and columns are not zero.
cudaError_t pack(PackedMatrix& matrix, const void* raw, int first_row, int n_rows,
                 cudaStream_t stream);

enum class Epilogue {
  F32,         // out[i] (float) = product
  F16,         // out[i] (half) = product
  F32_ADD,     // out[i] (float) += product, summed in full first; subnormals count as zero
  SWIGLU_F16,  // out[0] (half) = silu(weights[0] x) * (weights[1] x); both of one shape
};

/// out[i][row] = weights[i] * x[row], for up to three matrices that share their input.
struct MatmulCall {
  const PackedMatrix* weights[3] = {};
  int n_weights = 0;
  const __half* x = nullptr;  // [rows][columns], 16-byte aligned
  int rows = 0;
  void* out[3] = {};       // [rows][out_stride], see Epilogue
  int out_stride[3] = {};  // elements between rows of out; 0 means the matrix's rows
  Epilogue epilogue = Epilogue::F32;
  /// workspace_bytes() long, 256-byte aligned, or nullptr (slower, and not for every call). Zeroed
  /// once before its first use; one call at a time may use it.
  void* workspace = nullptr;
  std::size_t workspace_size = 0;
};

/// What `workspace` must hold for every call with at most so many rows and outputs of a matrix.
std::size_t workspace_bytes(int rows, int outputs);
/// Enqueues the products. Errors: what the launch says, or cudaErrorInvalidValue for a call that
/// breaks the rules above.
cudaError_t matmul(const MatmulCall& call, cudaStream_t stream);

/// How many runs the inputs are cut into: a function of the weight's shape and type alone.
int chains(quant::Type type, int rows, int columns);

/// Whether the current device is a Hopper and runs code compiled for sm_90a.
cudaError_t runs_wgmma(bool& result);

/// For tests: which kernels may be used. `automatic` chooses by device and row count.
enum class Path { automatic, mma, wgmma };
cudaError_t matmul_on(Path path, const MatmulCall& call, cudaStream_t stream);

}  // namespace herd::cuda
