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

}  // namespace

MeasuredCeilings measure_ceilings(int threads) {
  ThreadPool pool(threads > 0 ? threads
                              : std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  const std::size_t slots = static_cast<std::size_t>(pool.threads());
  MeasuredCeilings out = {};
  const cpu::KernelTable& table = cpu::widest_table();
  cpu::Arena arena;  // as the weights are kept
  if (auto* data = reinterpret_cast<float*>(arena.take(kReadBytes)); data != nullptr) {
    const std::int64_t share = kReadBytes / 4 / pool.threads() / 128 * 128;
    // Memory that nobody has written is one page of zeros everywhere, read at a cache's speed.
    pool.run(pool.threads(), [&](int i, int) { std::fill_n(data + i * share, share, 1.0f); });
    std::vector<float> found(slots * 16);
    const double seconds = best_seconds(pool, [&](int i, int) {
      found[static_cast<std::size_t>(i) * 16] = table.read(data + i * share, share);
    });
    out.read_bytes_per_second = static_cast<double>(4 * share * pool.threads()) / seconds;
  }
  std::vector<float> sinks(slots * 16);
  std::vector<std::int64_t> done(slots);
  const auto rate = [&](auto burn) {
    const double seconds = best_seconds(pool, [&](int share, int) {
      float* sink = sinks.data() + share * 16;
      sink[0] = 0.999f, sink[1] = 0.001f;
      done[static_cast<std::size_t>(share)] = burn(kBurnSteps, sink);
    });
    return static_cast<double>(done[0]) * pool.threads() / seconds;
  };
  out.flops_per_second = rate(table.burn);
  out.integer_flops_per_second = rate(table.burn_integers);
  return out;
}

}  // namespace herd
