// batch_matmul: out[row][n] = weights[n] . x[row] for one weight type. Weights are read once for all rows
// of a tile; a tile holds 8 rows (decoding) or 32. Both run the same instructions on each row in the same
// order over the inputs, one accumulator over all of them, so a row's result does not depend on how many
// there are.
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;
#include "backend/metal/kernels/formats.h"

/// kInputs halves of each row of the tile; zeros where there is no row or input.
inline void stage_rows(threadgroup half* to, device const half* x, constant Matmul& a, uint tile_rows,
                       uint first_row, uint first_input, uint tid, uint threads) {
  for (uint i = tid; i < tile_rows * kInputs; i += threads) {
    const uint row = first_row + i / kInputs, k = first_input + i % kInputs;
    to[i] = row < a.rows && k < a.inputs ? x[ulong(row) * a.inputs + k] : half(0.0f);
  }
}

template <typename Format, int ROWS>
kernel void batch_matmul(device const half* x [[buffer(0)]],          // [rows][inputs]
                         device const uchar* weights [[buffer(1)]],   // [outputs][row_bytes]
                         device float* out [[buffer(2)]],             // [rows][outputs]
                         constant Matmul& a [[buffer(3)]],
                         uint2 group [[threadgroup_position_in_grid]],  // of outputs, of rows
                         uint tid [[thread_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint sg [[simdgroup_index_in_threadgroup]],
                         uint sgs [[simdgroups_per_threadgroup]]) {
  TG_ARRAY(half, xs, ROWS * kInputs);
  TG_ARRAY(half, ws, kMaxSimdgroups * kTile * kInputs);
  TG_ARRAY(float, tiles, kMaxSimdgroups * kTile * kTile);
  const uint threads = sgs * 32, first_row = group.y * ROWS, first_output = group.x * sgs * kTile;
  simdgroup_float8x8 sums[ROWS / kTile];
  for (int r = 0; r < ROWS / kTile; ++r) sums[r] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k0 = 0; k0 < a.inputs; k0 += kInputs) {
    stage_rows(xs, x, a, ROWS, first_row, k0, tid, threads);
    const uint n = first_output + tid / 4;  // a thread decodes eight inputs of one output
    device const uchar* row = weights + ulong(n) * ulong(a.row_bytes);
    for (uint j = 0; j < 8; ++j) {
      const uint k = k0 + tid % 4 * 8 + j;
      ws[tid * 8 + j] = n < a.outputs && k < a.inputs ? half(Format::at(row, k)) : half(0.0f);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = 0; k < kInputs; k += kTile) {
      simdgroup_half8x8 w;
      simdgroup_load(w, ws + sg * kTile * kInputs + k, kInputs, ulong2(0, 0), true);
      for (int r = 0; r < ROWS / kTile; ++r) {
        if (first_row + r * kTile >= a.rows) continue;  // the same for all lanes
        simdgroup_half8x8 inputs;
        simdgroup_load(inputs, xs + r * kTile * kInputs + k, kInputs);
        simdgroup_multiply_accumulate(sums[r], inputs, w, sums[r]);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  threadgroup float* tile = tiles + sg * kTile * kTile;
  for (int r = 0; r < ROWS / kTile; ++r) {
    simdgroup_store(sums[r], tile, kTile);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < kTile * kTile; i += 32) {
      const uint y = first_row + r * kTile + i / kTile, n = first_output + sg * kTile + i % kTile;
      if (y < a.rows && n < a.outputs) {
        device float* to = out + ulong(y) * a.outputs + n;
        *to = a.add != 0 ? *to + tile[i] : tile[i];
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

template <typename Format>
kernel void embed_batch(device const uchar* table [[buffer(0)]],  // [vocab][row_bytes]
                        device const int32_t* ids [[buffer(1)]],
                        device const int32_t* chosen [[buffer(2)]],  // by the step before
                        device float* out [[buffer(3)]],             // [rows][columns]
                        constant Embed& a [[buffer(4)]],
                        uint i [[thread_position_in_grid]]) {
  if (i >= a.rows * a.columns) return;
  const int32_t id = ids[i / a.columns];
  const int32_t known = id >= 0 ? id : max(chosen[-1 - id], 0);
  out[i] = Format::at(table + ulong(known) * ulong(a.row_bytes), i % a.columns) + 0.0f;
}

#define HERD_FORMAT(type)                                                  \
  INSTANTIATE_KERNEL("batch_matmul_8_" #type, batch_matmul, type, 8);    \
  INSTANTIATE_KERNEL("batch_matmul_32_" #type, batch_matmul, type, 32);  \
  INSTANTIATE_KERNEL("embed_batch_" #type, embed_batch, type)
HERD_FORMAT(F32);
HERD_FORMAT(F16);
HERD_FORMAT(BF16);
HERD_FORMAT(Q4_0);
HERD_FORMAT(Q4_1);
HERD_FORMAT(Q5_0);
HERD_FORMAT(Q5_1);
HERD_FORMAT(Q8_0);
HERD_FORMAT(Q2_K);
HERD_FORMAT(Q3_K);
HERD_FORMAT(Q4_K);
HERD_FORMAT(Q5_K);
HERD_FORMAT(Q6_K);
HERD_FORMAT(IQ4_NL);
HERD_FORMAT(IQ4_XS);
