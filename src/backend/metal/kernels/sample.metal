// The next id of each logits row, by the rules of src/sample/sampler.cc: one threadgroup a row. Weights are
// integers of 2^-40, so that sums do not depend on the order in which threads add.
#include <metal_stdlib>

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"
using namespace metal;
using namespace herd::args;

/// The threads of a group and where they meet.
struct Team {
  uint tid, lane, sg, sgs;
  threadgroup ulong* sums;  // [32]
  threadgroup int32_t* id;
};

/// Larger values have larger keys; both zeros have the same.
inline uint key_of(float x) {
  const uint bits = as_type<uint>(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

inline ulong simd_total(ulong x) {  // no 64-bit simd_sum: in three parts of 24 bits
  const ulong low = simd_sum(uint(x & 0xffffffu));
  const ulong middle = simd_sum(uint(x >> 24 & 0xffffffu));
  const ulong high = simd_sum(uint(x >> 48));
  return low + (middle << 24) + (high << 48);
}
inline ulong total_of(ulong x, Team team) {
  x = simd_total(x);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (team.lane == 0) team.sums[team.sg] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_total(team.lane < team.sgs ? team.sums[team.lane] : 0ul);
}
inline uint largest_of(uint x, Team team) {
  x = simd_max(x);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (team.lane == 0) team.sums[team.sg] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_max(team.lane < team.sgs ? uint(team.sums[team.lane]) : 0u);
}

/// A row and which of its ids are still candidates: those of larger keys than `key`, and of `key` those
/// up to `last`, if they weigh at least `least`.
struct Row {
  device const float* logits;
  uint vocab;
  float largest, scale, scale_rest;  // log2(e) / temperature in two floats
  uint key, last;
  ulong least;
};
/// What is counted: ids, or weights, of keys from `from` to `to`.
struct Count {
  bool weighted;
  uint from, to;
};

/// e^((x - largest) / temperature) in units of 2^-40.
inline ulong weight_of(thread const Row& row, float x) {
  if (x == -INFINITY) return 0;
  const float d = x - row.largest, of_largest = x - d;
  const float rest = (x - (d + of_largest)) + (of_largest - row.largest);  // d + rest is exact
  const float high = d * row.scale;
  const float low = fma(d, row.scale, -high) + fma(d, row.scale_rest, rest * row.scale);
  if (!(high > -45.0f)) return 0;
  const float whole = rint(high);
  const ulong bits = ulong(precise::exp2((high - whole) + low) * 16777216.0f);  // of 2^-24
  const int shift = int(whole) + 16;
  if (shift >= 0) return bits << shift;
  return (bits + (1ul << (-shift - 1))) >> -shift;
}
inline ulong mass(thread const Row& row, Count count, uint i) {
  const float x = row.logits[i];
  const uint key = key_of(x);
  if (key < row.key || (key == row.key && i > row.last)) return 0;
  if (key < count.from || key > count.to) return 0;
  if (!count.weighted) return 1;
  const ulong weight = weight_of(row, x);
  return weight >= row.least ? weight : 0;
}
inline ulong total(thread const Row& row, Count count, Team team) {
  ulong sum = 0;
  for (uint i = team.tid; i < row.vocab; i += team.sgs * 32) sum += mass(row, count, i);
  return total_of(sum, team);
}

/// The first id at which the sum over ids in order exceeds `target`.
inline uint find_id(thread const Row& row, Count count, ulong target, Team team) {
  const uint run = (row.vocab + team.sgs - 1) / team.sgs;  // of a simdgroup
  const uint first = team.sg * run, end = min(row.vocab, first + run);
  ulong sum = 0;
  for (uint i = first + team.lane; i < end; i += 32) sum += mass(row, count, i);
  sum = simd_total(sum);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (team.lane == 0) team.sums[team.sg] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  ulong before = 0;
  for (uint s = 0; s < team.sg; ++s) before += team.sums[s];
  if (team.lane == 0 && before <= target && before + sum > target) {
    uint i = first;
    for (ulong passed = before; (passed += mass(row, count, i)) <= target;) ++i;
    *team.id = int32_t(i);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return uint(*team.id);
}

/// The largest key such that keys from it on hold at least `target`.
inline uint find_key(thread const Row& row, bool weighted, ulong target, Team team) {
  uint key = 0;
  for (uint bit = 0x80000000u; bit != 0; bit >>= 1) {
    const Count count = {weighted, key | bit, 0xffffffffu};
    if (total(row, count, team) >= target) key |= bit;
  }
  return key;
}
/// Leaves the ids of keys above `key`, and of `key` only the first `count`.
inline void keep(thread Row& row, uint key, ulong count, Team team) {
  const Count ties = {false, key, key};
  const bool cut = total(row, ties, team) > count;
  const uint last = cut ? find_id(row, ties, count - 1, team) : 0x7fffffffu;
  row.last = key == row.key ? min(row.last, last) : last;
  row.key = key;
}

inline ulong mixed(ulong z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ul;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebul;
  return z ^ (z >> 31);
}
/// base/rng.h's counter_bits.
inline ulong counter_bits_of(ulong seed, ulong position) {
  return mixed(mixed(seed + 0x9e3779b97f4a7c15ul) + (position + 1) * 0x9e3779b97f4a7c15ul);
}

inline uint draw(thread Row& row, device const Sampling& how, Team team) {
  const Count ids = {false, 0, 0xffffffffu}, weights = {true, 0, 0xffffffffu};
  if (how.top_k > 0 && ulong(how.top_k) < total(row, ids, team)) {
    const ulong wanted = ulong(how.top_k);
    const uint key = find_key(row, false, wanted, team);
    const Count above = {false, key + 1, 0xffffffffu};
    keep(row, key, wanted - total(row, above, team), team);
  }
  if (how.top_p < 1.0f) {
    const ulong sum = total(row, weights, team), part = ulong(how.top_p * 4294967296.0f);
    const ulong low = sum * part;  // of sum * part / 2^32, rounded up
    const ulong up = (low & 0xffffffffu) != 0 ? 1 : 0;
    const ulong wanted = max((mulhi(sum, part) << 32) + (low >> 32) + up, 1ul);
    const uint key = find_key(row, true, wanted, team);
    const Count above = {true, key + 1, 0xffffffffu}, at = {true, key, key}, ties = {false, key, key};
    const ulong n = max(total(row, ties, team), 1ul), each = max(total(row, at, team) / n, 1ul);
    keep(row, key, (wanted - total(row, above, team) + each - 1) / each, team);
  }
  row.least = ulong(how.min_p * 1099511627776.0f);
  const ulong sum = total(row, weights, team);
  const ulong uniform = counter_bits_of(how.seed, ulong(how.position)) >> 11;
  const ulong target = mulhi(uniform, sum) << 11 | uniform * sum >> 53;  // uniform * sum / 2^53
  return find_id(row, weights, target, team);
}

kernel void sample_batch(device const float* logits [[buffer(0)]],  // [rows][vocab]
                         device const Sampling* how [[buffer(1)]],  // [rows]
                         device int32_t* chosen [[buffer(2)]],      // [rows]; -1: none can be
                         constant Sample& a [[buffer(3)]],
                         uint group [[threadgroup_position_in_grid]],
                         uint tid [[thread_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint sg [[simdgroup_index_in_threadgroup]],
                         uint sgs [[simdgroups_per_threadgroup]]) {
  TG_ARRAY(ulong, sums, 32);
  TG_ARRAY(int32_t, found, 1);
  const Team team = {tid, lane, sg, sgs, sums, found};
  device const float* x = logits + ulong(group) * a.vocab;
  uint best = 0;
  for (uint i = tid; i < a.vocab; i += sgs * 32)
    best = max(best, x[i] <= 3.402823466e38f ? key_of(x[i]) : 0xffffffffu);
  best = largest_of(best, team);
  uint first = 0;  // of the largest, the lowest id, as its complement
  for (uint i = tid; i < a.vocab; i += sgs * 32)
    if (key_of(x[i]) == best) first = max(first, 0xffffffffu - i);
  first = 0xffffffffu - largest_of(first, team);
  int32_t id = int32_t(first);
  if (best == 0xffffffffu || best == key_of(-INFINITY)) {
    id = -1;
  } else if (how[group].temperature > 0.0f) {
    const float log2_e = 1.44269504f, rest = 1.925963033e-8f, t = how[group].temperature;
    const float scale = log2_e / t;
    Row row = {x, a.vocab, x[first], scale, (fma(-scale, t, log2_e) + rest) / t,
               key_of(-INFINITY) + 1, 0x7fffffffu, 0};
    id = int32_t(draw(row, how[group], team));
  }
  if (tid == 0) chosen[group] = id;
}
EXPORT_KERNEL(sample_batch);
