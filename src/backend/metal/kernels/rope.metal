// rope_batch_f32: rotates pairs of queries and keys by each row's position and writes keys and values to
// the row's slot. One thread a pair.
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;

kernel void rope_batch_f32(device float* q [[buffer(0)]],               // [rows][heads][size]
                           device float* k [[buffer(1)]],               // [rows][kv_heads][size]
                           device const float* v [[buffer(2)]],         // [rows][kv_heads][size]
                           device half* q_out [[buffer(3)]],            // [rows][heads][size]
                           device const float* table [[buffer(4)]],     // [context][pairs][cos, sin]
                           device const int32_t* positions [[buffer(5)]],
                           device const int32_t* slots [[buffer(6)]],
                           device half* keys [[buffer(7)]],             // [slots][kv_heads][size]
                           device half* values [[buffer(8)]],           // [slots][kv_heads][size]
                           constant Rope& a [[buffer(9)]],
                           uint i [[thread_position_in_grid]]) {
  const uint pairs = (a.head_size + 1) / 2;
  const uint of_q = a.has_q != 0 ? a.heads : 0, of_k = a.has_k != 0 ? a.kv_heads : 0;
  const uint of_v = a.has_v != 0 ? a.kv_heads : 0, of_row = of_q + of_k + of_v;
  if (i >= a.rows * of_row * pairs) return;
  const uint row = i / pairs / of_row, which = i / pairs % of_row, d = i % pairs * 2;
  const bool is_q = which < of_q, is_v = which >= of_q + of_k;
  const uint head = is_q ? which : is_v ? which - of_q - of_k : which - of_q;
  const ulong at = (ulong(row) * (is_q ? a.heads : a.kv_heads) + head) * a.head_size + d;
  device float* x = is_q ? q : k;
  const bool second = d + 1 < a.head_size;
  float u = is_v ? v[at] : x[at];
  float w = !second ? 0.0f : is_v ? v[at + 1] : x[at + 1];
  if (!is_v && d < a.rope_size) {
    device const float* angle = table + ulong(positions[row]) * a.rope_size + d;
    const float c = angle[0], s = angle[1], rotated = fma(u, c, -(w * s));
    w = fma(w, c, u * s);
    u = rotated;
    x[at] = u;
    x[at + 1] = w;
  }
  if (is_q && a.has_q_out != 0) {
    q_out[at] = half(u);
    if (second) q_out[at + 1] = half(w);
  }
  if (!is_q && a.has_v != 0) {
    device half* pool = is_v ? values : keys;
    const ulong to = (ulong(slots[row]) * a.kv_heads + head) * a.head_size + d;
    pool[to] = half(u);
    if (second) pool[to + 1] = half(w);
  }
}
EXPORT_KERNEL(rope_batch_f32);
