// A fixed set of threads for loops inside one op. Waiting spins for a bounded while, then sleeps.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace herd {

/// Runs loops on `threads` threads, the caller being one of them. One caller at a time.
class ThreadPool {
 public:
  /// What a waiting thread does between looks at what it waits for: prefetching, say. Must return
  /// within a microsecond.
  struct Idle {
    void (*call)(void* context, int thread) = nullptr;
    void* context = nullptr;
  };

  /// REQUIRES: threads >= 1. Starts threads - 1 workers, which may call `idle` from now on.
  explicit ThreadPool(int threads) : ThreadPool(threads, Idle{}) {}
  ThreadPool(int threads, Idle idle);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(chunk, thread) for every chunk in [0, chunks), handed out one by one in order, and
  /// returns when all are done. Allocates nothing. The body must not throw or call run().
  template <class Body>
  void run(int chunks, Body&& body) {
    using B = std::remove_reference_t<Body>;
    run_job(
        {[](void* context, int chunk, int thread) { (*static_cast<B*>(context))(chunk, thread); },
         const_cast<void*>(static_cast<const void*>(&body))},
        chunks);
  }

 private:
  struct Job {
    void (*call)(void* context, int chunk, int thread) = nullptr;
    void* context = nullptr;
  };
  void run_job(Job job, int chunks);
  template <class T>
  void wait_while(std::atomic<T>& value, T old, int thread);
  void take_chunks(int thread);
  void work(int thread);

  // A job is over when its chunks are done, not when every worker has looked at it: a worker that
  // is late (its core is taken) holds nobody up. So a worker may come while the next job is being
  // set up; the ticket tells it in one step which chunk it got and of how many, and a job is not
  // touched while one of its chunks is out.
  Job job_;
  const Idle idle_;
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // counts jobs; workers wait for a change
  alignas(64) std::atomic<std::uint64_t> ticket_{0};      // chunks << 32 | next chunk
  alignas(64) std::atomic<int> left_{0};                  // chunks not done
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace herd
