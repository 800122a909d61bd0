#include "base/thread_pool.h"

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

ThreadPool::ThreadPool(int threads, Idle idle) : idle_(idle) {
  workers_.reserve(static_cast<std::size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_job(Job job, int chunks) {
  if (workers_.empty() || chunks <= 1) {
    for (int chunk = 0; chunk < chunks; ++chunk) job.call(job.context, chunk, 0);
    return;
  }
  job_ = job;
  left_.store(chunks, std::memory_order_relaxed);
  ticket_.store(std::uint64_t{static_cast<std::uint32_t>(chunks)} << 32, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take_chunks(0);
  for (int left = left_.load(std::memory_order_acquire); left != 0;
       left = left_.load(std::memory_order_acquire))
    wait_while(left_, left, 0);
}

void ThreadPool::take_chunks(int thread) {
  for (;;) {
    const std::uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
    const std::uint32_t chunk = static_cast<std::uint32_t>(ticket);
    if (chunk >= static_cast<std::uint32_t>(ticket >> 32)) return;
    job_.call(job_.context, static_cast<int>(chunk), thread);
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1 && thread != 0) left_.notify_one();
  }
}

void ThreadPool::work(int thread) {
  std::uint32_t seen = 0;
  for (;;) {
    wait_while(generation_, seen, thread);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    take_chunks(thread);
  }
}

}  // namespace herd
