// rms_norm_batch_f32 and its twin with half results: one threadgroup a row.
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;

template <typename Out>
kernel void rms_norm(device const float* x [[buffer(0)]],       // [rows][columns]
                     device const float* weight [[buffer(1)]],  // [columns]
                     device Out* out [[buffer(2)]],             // [rows][columns]; may be x
                     device const int32_t* logit_rows [[buffer(3)]],
                     constant RmsNorm& a [[buffer(4)]],
                     uint row [[threadgroup_position_in_grid]],
                     uint tid [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint sg [[simdgroup_index_in_threadgroup]],
                     uint sgs [[simdgroups_per_threadgroup]]) {
  TG_ARRAY(float, parts, 32);
  const uint from = a.of_logit_rows != 0 ? uint(logit_rows[row]) : row;
  device const float* in = x + ulong(from) * a.columns;
  float sum = 0.0f;
  for (uint i = tid; i < a.columns; i += sgs * 32) sum = fma(in[i], in[i], sum);
  sum = simd_sum(sum);
  if (lane == 0) parts[sg] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float total = simd_sum(lane < sgs ? parts[lane] : 0.0f);
  const float inverse = 1.0f / precise::sqrt(total / float(a.columns) + a.epsilon);
  for (uint i = tid; i < a.columns; i += sgs * 32)
    out[ulong(row) * a.columns + i] = Out((in[i] * inverse) * weight[i]);
}
INSTANTIATE_KERNEL("rms_norm_batch_f32", rms_norm, float);
INSTANTIATE_KERNEL("rms_norm_batch_f16", rms_norm, half);
