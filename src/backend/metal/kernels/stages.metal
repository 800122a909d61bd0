// The guide's separate stages, f32 in and out: a thread for each result, or a simdgroup for each row.
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;

inline float silu(float g) {
  return g / (1.0f + precise::exp(-g));
}

kernel void element_wise_add(device const float* a [[buffer(0)]], device const float* b [[buffer(1)]],
                             device float* out [[buffer(2)]], constant Elements& n [[buffer(3)]],
                             uint i [[thread_position_in_grid]]) {
  if (i < n.count) out[i] = a[i] + b[i];
}
EXPORT_KERNEL(element_wise_add);

template <typename Out>
kernel void swiglu(device const float* gate [[buffer(0)]], device const float* up [[buffer(1)]],
                   device Out* out [[buffer(2)]], constant Elements& n [[buffer(3)]],
                   uint i [[thread_position_in_grid]]) {
  if (i < n.count) out[i] = Out(silu(gate[i]) * up[i]);
}
INSTANTIATE_KERNEL("swiglu_activation", swiglu, float);
INSTANTIATE_KERNEL("swiglu_activation_f16", swiglu, half);

kernel void to_half(device const float* x [[buffer(0)]], device half* out [[buffer(1)]],
                    constant Elements& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < n.count) out[i] = half(x[i]);
}
EXPORT_KERNEL(to_half);

kernel void attention_scores_batch_f32(
    device const float* q [[buffer(0)]],  // [batch][queries][heads][size]
    device const float* k [[buffer(1)]],  // [batch][keys][kv_heads][size]
    device float* scores [[buffer(2)]],   // [batch][heads][queries][keys]
    device const int32_t* start [[buffer(3)]], constant Scores& a [[buffer(4)]],
    uint at [[thread_position_in_grid]]) {
  if (at >= a.count) return;
  const uint j = at % a.keys, i = at / a.keys % a.queries, h = at / a.keys / a.queries % a.heads;
  const uint b = at / a.keys / a.queries / a.heads, kv_head = h / (a.heads / a.kv_heads);
  device const float* query = q + ((ulong(b) * a.queries + i) * a.heads + h) * a.head_size;
  device const float* key = k + ((ulong(b) * a.keys + j) * a.kv_heads + kv_head) * a.head_size;
  float dot = 0.0f;
  for (uint d = 0; d < a.head_size; ++d) dot = fma(query[d], key[d], dot);
  scores[at] = j <= uint(start[b]) + i ? dot * a.scale : -INFINITY;
}
EXPORT_KERNEL(attention_scores_batch_f32);

kernel void softmax_max_batch_f32(device const float* x [[buffer(0)]], device float* largest [[buffer(1)]],
                                  constant Softmax& a [[buffer(2)]],
                                  uint row [[threadgroup_position_in_grid]],
                                  uint lane [[thread_index_in_simdgroup]]) {
  float best = -INFINITY;
  for (uint j = lane; j < a.columns; j += 32) best = max(best, x[ulong(row) * a.columns + j]);
  best = simd_max(best);
  if (lane == 0) largest[row] = best + 0.0f;
}
EXPORT_KERNEL(softmax_max_batch_f32);

kernel void softmax_exp_sum_f32(device float* x [[buffer(0)]], device const float* largest [[buffer(1)]],
                                device float* sums [[buffer(2)]], constant Softmax& a [[buffer(3)]],
                                uint row [[threadgroup_position_in_grid]],
                                uint lane [[thread_index_in_simdgroup]]) {
  float sum = 0.0f;
  for (uint j = lane; j < a.columns; j += 32) {
    const ulong at = ulong(row) * a.columns + j;
    x[at] = precise::exp(x[at] - largest[row]);
    sum += x[at];
  }
  sum = simd_sum(sum);
  if (lane == 0) sums[row] = sum;
}
EXPORT_KERNEL(softmax_exp_sum_f32);

kernel void softmax_normalize_f32(device float* x [[buffer(0)]], device const float* sums [[buffer(1)]],
                                  constant Softmax& a [[buffer(2)]],
                                  uint i [[thread_position_in_grid]]) {
  if (i < a.count) x[i] = x[i] / sums[i / a.columns];
}
EXPORT_KERNEL(softmax_normalize_f32);

kernel void apply_attention_batch_f32(
    device const float* weights [[buffer(0)]],  // [batch][heads][queries][keys]
    device const float* v [[buffer(1)]],        // [batch][keys][kv_heads][size]
    device float* out [[buffer(2)]],            // [batch][queries][heads][size]
    constant Scores& a [[buffer(3)]], uint at [[thread_position_in_grid]]) {
  if (at >= a.count) return;
  const uint d = at % a.head_size, h = at / a.head_size % a.heads;
  const uint i = at / a.head_size / a.heads % a.queries, b = at / a.head_size / a.heads / a.queries;
  device const float* weight = weights + ((ulong(b) * a.heads + h) * a.queries + i) * a.keys;
  const uint kv_head = h / (a.heads / a.kv_heads);
  float sum = 0.0f;
  for (uint j = 0; j < a.keys; ++j)
    sum = fma(weight[j], v[((ulong(b) * a.keys + j) * a.kv_heads + kv_head) * a.head_size + d], sum);
  out[at] = sum;
}
EXPORT_KERNEL(apply_attention_batch_f32);
