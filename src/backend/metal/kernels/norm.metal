// rms_norm_batch_f32, its twin with half results, and both fused with a residual add: one threadgroup a row.
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;

/// Element i of a row, with what is added to it; a thread comes to the same elements each time.
template <bool ADD>
inline float element(device const float* x, device const float* add, ulong i) {
  return ADD ? x[i] + add[i] : x[i];
}

template <typename Out, bool ADD>
kernel void rms_norm(device float* x [[buffer(0)]],             // [rows][columns]; + add, unless of logit rows
                     device const float* weight [[buffer(1)]],  // [columns]
                     device Out* out [[buffer(2)]],             // [rows][columns]; may be x
                     device const int32_t* logit_rows [[buffer(3)]],
                     device const float* add [[buffer(4)]],     // [rows][columns], if ADD
                     constant RmsNorm& a [[buffer(5)]],
                     uint row [[threadgroup_position_in_grid]],
                     uint tid [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint sg [[simdgroup_index_in_threadgroup]],
                     uint sgs [[simdgroups_per_threadgroup]]) {
  TG_ARRAY(float, parts, 32);
  const uint from = a.of_logit_rows != 0 ? uint(logit_rows[row]) : row;
  const ulong first = ulong(from) * a.columns;
  float sum = 0.0f;
  for (uint i = tid; i < a.columns; i += sgs * 32) {
    const float value = element<ADD>(x, add, first + i);
    sum = fma(value, value, sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) parts[sg] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float total = simd_sum(lane < sgs ? parts[lane] : 0.0f);
  const float inverse = 1.0f / precise::sqrt(total / float(a.columns) + a.epsilon);
  for (uint i = tid; i < a.columns; i += sgs * 32) {
    const float value = element<ADD>(x, add, first + i);
    if (ADD && a.of_logit_rows == 0) x[first + i] = value;
    out[ulong(row) * a.columns + i] = Out((value * inverse) * weight[i]);
  }
}
INSTANTIATE_KERNEL("rms_norm_batch_f32", rms_norm, float, false);
INSTANTIATE_KERNEL("rms_norm_batch_f16", rms_norm, half, false);
INSTANTIATE_KERNEL("rms_norm_add_batch_f32", rms_norm, float, true);
INSTANTIATE_KERNEL("rms_norm_add_batch_f16", rms_norm, half, true);
