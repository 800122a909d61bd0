// Causal attention of each row over its sequence's pages, with an online softmax. A threadgroup takes one
// row and one kv head, a simdgroup one of its heads at a time, 32 keys at a time in ascending position: what
// a row gets depends on its own sequence only.
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;

/// Where position j of the row's sequence lies in the pool, in halves.
inline ulong place_of(device const int32_t* pages, constant Attention& a, uint kv_head, uint j) {
  const ulong slot = ulong(pages[j / a.page_size]) * a.page_size + j % a.page_size;
  return (slot * a.kv_heads + kv_head) * a.head_size;
}

kernel void paged_attention(device const half* q [[buffer(0)]],       // [rows][heads][size]
                            device const half* keys [[buffer(1)]],    // [slots][kv_heads][size]
                            device const half* values [[buffer(2)]],  // [slots][kv_heads][size]
                            device half* out [[buffer(3)]],           // [rows][heads][size]
                            device const int32_t* positions [[buffer(4)]],
                            device const int32_t* first_pages [[buffer(5)]],  // [rows]
                            device const int32_t* block_table [[buffer(6)]],
                            constant Attention& a [[buffer(7)]],
                            uint2 group [[threadgroup_position_in_grid]],  // kv head, row
                            uint lane [[thread_index_in_simdgroup]],
                            uint sg [[simdgroup_index_in_threadgroup]],
                            uint sgs [[simdgroups_per_threadgroup]]) {
  TG_ARRAY(float, shared, kMaxSimdgroups * 32);
  threadgroup float* weights = shared + sg * 32;
  const uint row = group.y, n = uint(positions[row]) + 1;
  device const int32_t* pages = block_table + first_pages[row];
  for (uint h = sg; h < a.group; h += sgs) {
    const ulong at = (ulong(row) * a.kv_heads * a.group + group.x * a.group + h) * a.head_size;
    float largest = -INFINITY, sum = 0.0f, acc[kMaxHeadParts];
    for (uint i = 0; i < kMaxHeadParts; ++i) acc[i] = 0.0f;
    for (uint first = 0; first < n; first += 32) {
      const uint j = first + lane;
      float score = -INFINITY;
      if (j < n) {
        device const half* key = keys + place_of(pages, a, group.x, j);
        float dot = 0.0f;
        for (uint d = 0; d < a.head_size; ++d) dot = fma(float(q[at + d]), float(key[d]), dot);
        score = dot * a.scale;
      }
      const float above = max(largest, simd_max(score));
      const float shrink = precise::exp(largest - above);
      const float weight = precise::exp(score - above);  // 0 of -infinity
      largest = above;
      sum = fma(sum, shrink, simd_sum(weight));
      weights[lane] = weight;
      simdgroup_barrier(mem_flags::mem_threadgroup);
      const uint count = min(n - first, 32u);
      for (uint i = 0; i < kMaxHeadParts; ++i) acc[i] *= shrink;
      for (uint t = 0; t < count; ++t) {
        device const half* value = values + place_of(pages, a, group.x, first + t);
        for (uint i = 0, d = lane; d < a.head_size; ++i, d += 32)
          acc[i] = fma(weights[t], float(value[d]), acc[i]);
      }
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (uint i = 0, d = lane; d < a.head_size; ++i, d += 32) out[at + d] = half(acc[i] / sum);
  }
}
EXPORT_KERNEL(paged_attention);
