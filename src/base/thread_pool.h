// A fixed set of threads for loops inside one op. Waiting spins for a bounded while, then sleeps.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <thread>
#include <type_traits>
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

  /// Calls body(first, end, thread) for neighbouring chunks, at most `grain` at a time, until each
  /// chunk in [0, chunks) had its turn, and returns when all are done. A thread begins with its
  /// share of the chunks, in ascending order, and goes on with what is left of the others'.
  /// Allocates nothing. The body must not throw or call run(). Threads may stand behind different
  /// caches, where every line that one wrote and another reads is fetched from afar: a body that
  /// holds what it needs by value is handed over in one go.
  template <class Body>
  void run(int chunks, int grain, const Body& body) {
    static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) <= kBodyBytes,
                  "hold what is larger by reference");
    if (threads() == 1 || chunks <= 1) {
      for (int first = 0; first < chunks; first += grain)
        body(first, std::min(chunks, first + grain), 0);
      return;
    }
    job_.call = [](const void* job_body, int first, int end, int thread) {
      (*static_cast<const Body*>(job_body))(first, end, thread);
    };
    job_.chunks = chunks;
    job_.grain = grain;
    new (job_.body) Body(body);
    run_job();
  }
  /// The same one by one: body(chunk, thread).
  template <class Body>
  void run(int chunks, const Body& body) {
    run(chunks, 1, [body](int first, int, int thread) { body(first, thread); });
  }
  /// The first of `chunks` that `thread` begins with.
  int first_chunk(int chunks, int thread) const {
    return thread * (chunks / threads()) + std::min(thread, chunks % threads());
  }

 private:
  static constexpr std::size_t kBodyBytes = 448;
  struct alignas(64) Job {
    void (*call)(const void* body, int first, int end, int thread) = nullptr;
    int chunks = 0, grain = 1;
    alignas(16) std::byte body[kBodyBytes];
  };
  int takes(int owner) const;
  void run_job();
  void take_chunks(int thread);
  int take_from(int owner, int thread);
  void work(int thread);
  template <class T>
  void wait_while(std::atomic<T>& value, T old, int thread);

  // A job is over when its chunks are done, not when every worker has looked at it: a worker that
  // is late (its core is taken) holds nobody up. So a worker may come while the next job is being
  // set up; a ticket tells it in one step which take it got and of how many, and a job is not
  // touched while one of its takes is out.
  struct alignas(64) Tickets {
    std::atomic<std::uint64_t> next{0};  // takes << 32 | next of them, from this thread's share
  };
  const Idle idle_;
  std::vector<Tickets> tickets_;  // [threads]
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // counts jobs; workers wait for a change
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int> left_{0};  // takes not done
  Job job_;
};

}  // namespace herd
