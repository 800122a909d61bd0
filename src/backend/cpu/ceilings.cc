#include "herd/ceilings.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "backend/cpu/cpu.h"

namespace herd {
namespace {

constexpr int kRepeats = 5;
constexpr double kLeastSeconds = 0.3;  // threads may start out on one core and need time to spread
constexpr std::int64_t kReadBytes = std::int64_t{512}
                                    << 20;  // far beyond any last-level cache here
constexpr std::int64_t kBurnSteps = 2'000'000;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The shortest of several runs of `work` on all threads of `pool`.
template <class Work>
double best_seconds(ThreadPool& pool, Work&& work) {
  double best = 1e30, sum = 0;
  for (int i = 0; i < kRepeats || sum < kLeastSeconds; ++i) {
    const double start = seconds_now();
    pool.run(pool.threads(), work);
    const double seconds = seconds_now() - start;
    best = std::min(best, seconds);
    sum += seconds;
  }
  return best;
}

/// Adds up a share of `data` in independent sums the compiler can keep in vectors.
std::uint64_t read_share(const std::vector<std::uint64_t>& data, int share, int shares) {
  const std::size_t n = data.size() / static_cast<std::size_t>(shares) / 64 * 64;
  const std::uint64_t* p = data.data() + n * static_cast<std::size_t>(share);
  std::uint64_t sums[64] = {};
  for (std::size_t i = 0; i < n; i += 64)
    for (std::size_t l = 0; l < 64; ++l) sums[l] ^= p[i + l];
  std::uint64_t sum = 0;
  for (std::uint64_t s : sums) sum ^= s;
  return sum;
}

}  // namespace

MeasuredCeilings measure_ceilings(int threads) {
  ThreadPool pool(threads > 0 ? threads
                              : std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  const std::size_t slots = static_cast<std::size_t>(pool.threads());
  MeasuredCeilings out = {};
  {
    std::vector<std::uint64_t> data(kReadBytes / 8, 1);
    std::vector<std::uint64_t> sinks(slots * 8);
    const double seconds = best_seconds(pool, [&](int share, int) {
      sinks[static_cast<std::size_t>(share) * 8] += read_share(data, share, pool.threads());
    });
    out.read_bytes_per_second = static_cast<double>(kReadBytes) / seconds;
  }
  const cpu::KernelTable& table = cpu::widest_table();
  std::vector<float> sinks(slots * 16);
  std::vector<std::int64_t> done(slots);
  const double seconds = best_seconds(pool, [&](int share, int) {
    float* sink = sinks.data() + share * 16;
    sink[0] = 0.999f, sink[1] = 0.001f;
    done[static_cast<std::size_t>(share)] = table.burn(kBurnSteps, sink);
  });
  out.flops_per_second = static_cast<double>(done[0]) * pool.threads() / seconds;
  return out;
}

}  // namespace herd
