// A fixed set of threads for loops inside one op. Waiting spins for a bounded while, then sleeps.
#pragma once

#include <algorithm>
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

  int threads() const { return static_cast<int>(tickets_.size()); }

  /// Calls body(chunk, thread) once for every chunk in [0, chunks) and returns when all are done.
  /// A thread begins with a run of neighbouring chunks, in ascending order, and goes on with what
  /// is left of the others'. Allocates nothing. The body must not throw or call run().
  template <class Body>
  void run(int chunks, Body&& body) {
    using B = std::remove_reference_t<Body>;
    run_job(
        {[](void* context, int chunk, int thread) { (*static_cast<B*>(context))(chunk, thread); },
         const_cast<void*>(static_cast<const void*>(&body)), chunks});
  }
  /// The first of `chunks` that `thread` begins with.
  int first_chunk(int chunks, int thread) const {
    return thread * (chunks / threads()) + std::min(thread, chunks % threads());
  }

 private:
  struct Job {
    void (*call)(void* context, int chunk, int thread) = nullptr;
    void* context = nullptr;
    int chunks = 0;
  };
  void run_job(const Job& job);
  void take_chunks(int thread);
  int take_from(int owner, int thread);
  void work(int thread);
  template <class T>
  void wait_while(std::atomic<T>& value, T old, int thread);

  // A job is over when its chunks are done, not when every worker has looked at it: a worker that
  // is late (its core is taken) holds nobody up. So a worker may come while the next job is being
  // set up; a ticket tells it in one step which chunk it got and of how many, and a job is not
  // touched while one of its chunks is out.
  struct alignas(64) Tickets {
    std::atomic<std::uint64_t> next{0};  // end << 32 | next, of this thread's own chunks
  };
  Job job_;
  const Idle idle_;
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // counts jobs; workers wait for a change
  alignas(64) std::atomic<int> left_{0};                  // chunks not done
  std::atomic<bool> stop_{false};
  std::vector<Tickets> tickets_;  // [threads]
  std::vector<std::thread> workers_;
};

}  // namespace herd
