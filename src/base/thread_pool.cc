#include "base/thread_pool.h"

#include "base/prefetch.h"

namespace herd {
namespace {

// A short spin bridges the gap between two ops of a step. Then the core is offered to others
// between looks (two threads of the pool may share it), and after about a tenth of a millisecond we
// sleep.
constexpr int kSpins = 2000;
constexpr int kYields = 200;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

/// Waits until `value` is no longer `old`.
template <class T>
void ThreadPool::wait_while(std::atomic<T>& value, T old, int thread) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    if (idle_.call != nullptr) idle_.call(idle_.context, thread);
    relax();
  }
  for (int i = 0; i < kYields; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    std::this_thread::yield();
  }
  value.wait(old, std::memory_order_acquire);
}

ThreadPool::ThreadPool(int threads, Idle idle)
    : idle_(idle), tickets_(static_cast<std::size_t>(threads)) {
  workers_.reserve(static_cast<std::size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

/// How often at most `grain` chunks are taken until the share of `owner` is used up.
int ThreadPool::takes(int owner) const {
  const int share = first_chunk(job_.chunks, owner + 1) - first_chunk(job_.chunks, owner);
  return (share + job_.grain - 1) / job_.grain;
}

void ThreadPool::run_job() {
  int left = 0;
  for (int t = 0; t < threads(); ++t) left += takes(t);
  left_.store(left, std::memory_order_relaxed);
  for (int t = 0; t < threads(); ++t)
    tickets_[static_cast<std::size_t>(t)].next.store(static_cast<std::uint64_t>(takes(t)) << 32,
                                                     std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take_chunks(0);
  for (left = left_.load(std::memory_order_acquire); left != 0;
       left = left_.load(std::memory_order_acquire))
    wait_while(left_, left, 0);
}

/// Its own chunks, then what is left of the others'. What is done is said before the others are
/// looked at: the caller waits for the one, and fetching their lines takes as long as a small take.
void ThreadPool::take_chunks(int thread) {
  for (int i = 0; i < threads(); ++i) {
    const int done = take_from((thread + i) % threads(), thread);
    if (done == 0) continue;
    if (left_.fetch_sub(done, std::memory_order_acq_rel) == done && thread != 0) left_.notify_one();
  }
}

int ThreadPool::take_from(int owner, int thread) {
  Tickets& tickets = tickets_[static_cast<std::size_t>(owner)];
  for (int done = 0;;) {
    const std::uint64_t ticket = tickets.next.fetch_add(1, std::memory_order_acq_rel);
    const int next = static_cast<int>(ticket & 0xFFFFFFFF), end = static_cast<int>(ticket >> 32);
    if (next >= end) return done;
    const int first = first_chunk(job_.chunks, owner) + next * job_.grain;
    job_.call(job_.body, first, std::min(first + job_.grain, first_chunk(job_.chunks, owner + 1)),
              thread);
    ++done;
    if (next + 1 == end) return done;  // the last one: no need to ask
  }
}

void ThreadPool::work(int thread) {
  std::uint32_t seen = 0;
  for (;;) {
    wait_while(generation_, seen, thread);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    // All of a new job at once, not line after line.
    ask_to_write(&tickets_[static_cast<std::size_t>(thread)], sizeof(Tickets));
    ask_for<CacheLevel::first>(&job_, sizeof job_);
    take_chunks(thread);
  }
}

}  // namespace herd
