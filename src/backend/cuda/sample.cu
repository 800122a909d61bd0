// The next id of each logits row. The rules of src/sample/sampler.cc; weights are integers of
// 2^-40, so that sums do not depend on the order in which threads add.
#include "backend/cuda/async.cuh"
#include "backend/cuda/kernels.h"
#include "base/rng.h"

namespace herd::cuda {
namespace {

using u64 = unsigned long long;
constexpr int kSlices = 16;  // blocks that look for one row's largest
constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr float kNothing = -__builtin_inff();

/// Larger values have larger keys; both zeros have the same.
__device__ unsigned key_of(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float value_of(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ u64 warp_max(u64 x) {
  for (int step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
__device__ u64 warp_sum(u64 x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ u64 warp_scan(u64 x, int lane) {  // inclusive
  for (int step = 1; step < 32; step *= 2) {
    const u64 y = __shfl_up_sync(0xffffffffu, x, step);
    if (lane >= step) x += y;
  }
  return x;
}

// ---- the largest ----

/// Of one slice of a row: key and id of its largest, the lower id of equal ones; ~0 if a value is
/// NaN or +infinity.
__global__ void __launch_bounds__(256) find_largest(const float* logits, int vocab, u64* slices) {
  let_next_start();
  wait_for_inputs();
  const int row = blockIdx.y, slice = blockIdx.x;
  logits += static_cast<std::int64_t>(row) * vocab;
  const int per_slice = (vocab + kSlices - 1) / kSlices;
  const int end = min(vocab, (slice + 1) * per_slice);
  u64 best = 0;
  for (int i = slice * per_slice + threadIdx.x; i < end; i += 256) {
    const float x = logits[i];
    const u64 candidate = static_cast<u64>(key_of(x)) << 32 | (0xffffffffu - i);
    best = max(best, x <= 3.402823466e38f ? candidate : ~u64{0});
  }
  __shared__ u64 warps[8];
  best = warp_max(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 8; ++w) best = max(best, warps[w]);
  slices[row * kSlices + slice] = best;
}

// ---- the draw ----

/// Which ids are still candidates: those of larger keys, and of `key` those up to `last_id`.
struct Kept {
  unsigned key = 0;
  int last_id = 0x7fffffff;
  u64 least = 0;  // weight

  __device__ bool holds(unsigned k, int id) const { return k > key || (k == key && id <= last_id); }
};

struct Row {
  const float* logits;
  int vocab;
  double largest, log2_scale;  // log2(e) / temperature

  /// e^((x - largest) / temperature) in units of 2^-40.
  __device__ u64 weight(float x) const {
    const double y = (static_cast<double>(x) - largest) * log2_scale;
    if (!(y > -45.0)) return 0;
    const double n = rint(y);
    const float p = expf(static_cast<float>((y - n) * 0.6931471805599453));
    return __double2ull_rn(static_cast<double>(p) *
                           __longlong_as_double((1023ll + 40 + static_cast<long long>(n)) << 52));
  }
};

struct Shared {
  u64 bins[kBins];
  u64 warps[kWarps];
  u64 result, left;
  int id;
};

__device__ u64 block_total(u64 x, Shared& shared) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.warps[threadIdx.x / 32] = x;
  __syncthreads();
  u64 total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared.warps[w];
  return total;
}

/// The bin, from the last one down, with which the running sum reaches `target`: shared.result; and
/// what of the target is left for it: shared.left. REQUIRES: the sum of all bins >= target >= 1.
__device__ void find_bin(u64 target, Shared& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int high = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
  const u64 first = shared.bins[high], second = shared.bins[high - 1];
  u64 sum = warp_scan(first + second, lane);
  if (lane == 31) shared.warps[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += shared.warps[w];
  const u64 before = sum - first - second;
  if (before < target && sum >= target) {
    const bool is_first = before + first >= target;
    shared.result = is_first ? high : high - 1;
    shared.left = target - before - (is_first ? 0 : first);
  }
  __syncthreads();
}

struct Threshold {
  unsigned key;
  u64 left;  // mass wanted of the ids that have this very key
};
/// The key down to which candidates must be taken for their mass to reach `target`.
template <class Mass>
__device__ Threshold find_threshold(const Row& row, const Kept& kept, u64 target, Mass&& mass,
                                    Shared& shared) {
  unsigned prefix = 0;
  int shift = 32;
  for (const int bits : {11, 11, 10}) {
    for (int b = threadIdx.x; b < kBins; b += kThreads) shared.bins[b] = 0;
    __syncthreads();
    const int above = shift;
    shift -= bits;
    for (int i = threadIdx.x; i < row.vocab; i += kThreads) {
      const unsigned key = key_of(row.logits[i]);
      if (!kept.holds(key, i) || (above < 32 && key >> above != prefix)) continue;
      const u64 m = mass(row.logits[i]);
      if (m > 0) atomicAdd(&shared.bins[key >> shift & ((1u << bits) - 1)], m);
    }
    __syncthreads();
    find_bin(target, shared);
    prefix = prefix << bits | static_cast<unsigned>(shared.result);
    target = shared.left;
    __syncthreads();
  }
  return {prefix, target};
}

/// The id, ascending, with which the running sum of mass(i) passes `target`. Each warp sums a run
/// of ids; the one where it happens walks its run again. REQUIRES: the sum of all > target.
template <class Mass>
__device__ int find_id(int vocab, u64 target, Mass&& mass, Shared& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int run = ((vocab + kWarps - 1) / kWarps + 31) / 32 * 32;
  const int first = warp * run, end = min(vocab, first + run);
  u64 sum = 0;
  for (int i = first + lane; i < end; i += 32) sum += mass(i);
  sum = warp_sum(sum);
  __syncthreads();
  if (lane == 0) shared.warps[warp] = sum;
  __syncthreads();
  u64 before = 0;
  for (int w = 0; w < warp; ++w) before += shared.warps[w];
  if (before <= target && before + sum > target) {
    for (int i0 = first; i0 < end; i0 += 32) {
      const u64 scanned = before + warp_scan(i0 + lane < end ? mass(i0 + lane) : 0, lane);
      const unsigned passed = __ballot_sync(0xffffffffu, scanned > target);
      if (passed != 0) {
        if (lane == 0) shared.id = i0 + __ffs(static_cast<int>(passed)) - 1;
        break;
      }
      before = __shfl_sync(0xffffffffu, scanned, 31);
    }
  }
  __syncthreads();
  return shared.id;
}

/// Of the ids with key `key`, only the first `count` stay.
__device__ void keep_ties(const Row& row, Kept& kept, unsigned key, u64 count, Shared& shared) {
  const auto tie = [&](int i) -> u64 {
    const unsigned k = key_of(row.logits[i]);
    return k == key && kept.holds(k, i) ? 1 : 0;
  };
  u64 ties = 0;
  for (int i = threadIdx.x; i < row.vocab; i += kThreads) ties += tie(i);
  ties = block_total(ties, shared);
  const int last = ties > count ? find_id(row.vocab, count - 1, tie, shared) : kept.last_id;
  kept.last_id = key == kept.key ? min(kept.last_id, last) : ties > count ? last : 0x7fffffff;
  kept.key = key;
}

__device__ int draw(const Row& row, const SamplingRow& how, Shared& shared) {
  Kept kept;
  kept.key = key_of(kNothing) + 1;  // an id of -infinity is none
  const auto one = [](float) -> u64 { return 1; };
  const auto weight = [&](float x) { return row.weight(x); };
  const auto weight_of = [&](int i) -> u64 {
    const float x = row.logits[i];
    if (!kept.holds(key_of(x), i)) return 0;
    const u64 w = row.weight(x);
    return w >= kept.least ? w : 0;
  };
  const auto total = [&] {
    u64 sum = 0;
    for (int i = threadIdx.x; i < row.vocab; i += kThreads) sum += weight_of(i);
    return block_total(sum, shared);
  };
  if (how.top_k > 0) {
    u64 possible = 0;
    for (int i = threadIdx.x; i < row.vocab; i += kThreads)
      possible += kept.holds(key_of(row.logits[i]), i);
    if (static_cast<u64>(how.top_k) < block_total(possible, shared)) {
      const Threshold t = find_threshold(row, kept, static_cast<u64>(how.top_k), one, shared);
      keep_ties(row, kept, t.key, t.left, shared);
    }
  }
  if (how.top_p < 1.0f) {
    const double wanted = static_cast<double>(how.top_p) * static_cast<double>(total());
    const u64 target = max(u64{1}, __double2ull_ru(wanted));
    const Threshold t = find_threshold(row, kept, target, weight, shared);
    const u64 each = max(u64{1}, row.weight(value_of(t.key)));
    keep_ties(row, kept, t.key, (t.left + each - 1) / each, shared);
  }
  kept.least = __double2ull_rn(static_cast<double>(how.min_p) * 0x1p40);
  const u64 sum = total();
  const u64 uniform = counter_bits(how.seed, static_cast<std::uint64_t>(how.position)) >> 11;
  // uniform * sum / 2^53, whole
  const u64 target = __umul64hi(uniform, sum) << 11 | uniform * sum >> 53;
  return find_id(row.vocab, target, weight_of, shared);
}

__global__ void __launch_bounds__(kThreads)
    choose(const float* logits, int vocab, const u64* slices, StepView step) {
  __shared__ Shared shared;
  let_next_start();
  wait_for_inputs();
  const int row = blockIdx.x;
  u64 best = 0;
  for (int s = 0; s < kSlices; ++s) best = max(best, slices[row * kSlices + s]);
  const unsigned key = static_cast<unsigned>(best >> 32);
  const SamplingRow how = step.sampling[row];
  int id = static_cast<int>(0xffffffffu - static_cast<unsigned>(best));
  if (best == ~u64{0} || key == key_of(kNothing))
    id = -1;
  else if (how.temperature > 0)
    id = draw(
        {logits + static_cast<std::int64_t>(row) * vocab, vocab, static_cast<double>(value_of(key)),
         1.4426950408889634 / static_cast<double>(how.temperature)},
        how, shared);
  if (threadIdx.x == 0) step.sampled[row] = id;
}

}  // namespace

std::int64_t sample_scratch_bytes(int rows) {
  return std::int64_t{8} * kSlices * rows;
}
cudaError_t launch_sample(const SampleArgs& args, const StepView& step, void* scratch,
                          cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  auto* slices = static_cast<u64*>(scratch);
  const auto rows = static_cast<unsigned>(args.rows);
  const cudaError_t error = launch_chained(find_largest, dim3(kSlices, rows), 256, 0, stream,
                                           args.logits, args.vocab, slices);
  if (error != cudaSuccess) return error;
  return launch_chained(choose, rows, kThreads, 0, stream, args.logits, args.vocab, slices, step);
}

}  // namespace herd::cuda
