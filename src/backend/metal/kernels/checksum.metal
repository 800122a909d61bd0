// A checksum over bytes, for the host to compare with its own: do GPU and host see the same file?
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;

kernel void checksum(device const uchar* bytes [[buffer(0)]],  // [bytes]
                     device uint* sums [[buffer(1)]],          // [groups]
                     constant Checksum& a [[buffer(2)]],
                     uint group [[threadgroup_position_in_grid]],
                     uint groups [[threadgroups_per_grid]],
                     uint tid [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint sg [[simdgroup_index_in_threadgroup]],
                     uint sgs [[simdgroups_per_threadgroup]]) {
  TG_ARRAY(uint, parts, 32);
  uint sum = 0;
  const ulong count = ulong(a.bytes), words = (count + 3) / 4;
  for (ulong i = ulong(group) * sgs * 32 + tid; i < words; i += ulong(groups) * sgs * 32) {
    uint word = 0;
    for (uint j = 0; j < 4; ++j)
      if (4 * i + j < count) word |= uint(bytes[4 * i + j]) << (8 * j);
    sum += checked_word(word, uint(i));
  }
  sum = simd_sum(sum);
  if (lane == 0) parts[sg] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint total = simd_sum(lane < sgs ? parts[lane] : 0u);
  if (tid == 0) sums[group] = total;
}
EXPORT_KERNEL(checksum);
