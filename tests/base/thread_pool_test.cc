#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace herd {
namespace {

TEST(ThreadPool, EveryChunkRunsOnceOnAKnownThread) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int chunks : {0, 1, 2, 7, 1000}) {
      SCOPED_TRACE(std::to_string(threads) + " threads, " + std::to_string(chunks) + " chunks");
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(chunks));
      std::atomic<bool> thread_ok{true};
      pool.run(chunks, [&](int chunk, int thread) {
        runs[static_cast<std::size_t>(chunk)].fetch_add(1);
        if (thread < 0 || thread >= threads) thread_ok = false;
      });
      for (const auto& n : runs) ASSERT_EQ(n.load(), 1);
      EXPECT_TRUE(thread_ok);
    }
  }
}

TEST(ThreadPool, NeighbouringChunksAreTakenUpToAGrainAtATime) {
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const int chunks : {0, 1, 5, 8, 1001})
      for (const int grain : {1, 2, 7, 2000}) {
        SCOPED_TRACE(std::to_string(threads) + " threads, " + std::to_string(chunks) +
                     " chunks, grain " + std::to_string(grain));
        std::vector<std::atomic<int>> runs(static_cast<std::size_t>(chunks));
        std::atomic<bool> ok{true};
        pool.run(chunks, grain, [&](int first, int end, int) {
          int owner = 0;  // no take spans two threads' shares
          while (owner + 1 < threads && first >= pool.first_chunk(chunks, owner + 1)) ++owner;
          if (end <= first || end - first > grain || end > chunks) ok = false;
          if (threads > 1 && chunks > 1 && end > pool.first_chunk(chunks, owner + 1)) ok = false;
          for (int i = first; i < end; ++i) runs[static_cast<std::size_t>(i)].fetch_add(1);
        });
        EXPECT_TRUE(ok);
        for (const auto& n : runs) ASSERT_EQ(n.load(), 1);
      }
  }
}

// Plain memory written by one job is read by the next: the hand-over must order it.
TEST(ThreadPool, JobsFollowOneAnother) {
  ThreadPool pool(4);
  std::vector<long> values(64, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.run(64, [&](int chunk, int) {
      values[static_cast<std::size_t>(chunk)] +=
          values[static_cast<std::size_t>(chunk)] == round ? 1 : 1000000;
    });
  }
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), 0L), 64L * 2000);
}

TEST(ThreadPool, SleepersWakeUp) {
  ThreadPool pool(2);
  std::atomic<int> done{0};
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // far longer than anyone spins
    pool.run(10, [&](int, int) { done.fetch_add(1); });
  }
  EXPECT_EQ(done.load(), 50);
}

// Waiting threads do idle work, each under its own number, and jobs still run.
TEST(ThreadPool, WaitingThreadsDoIdleWork) {
  struct Seen {
    std::atomic<int> calls[3] = {};
  } seen;
  ThreadPool pool(3, {[](void* context, int thread) {
                        static_cast<Seen*>(context)->calls[thread].fetch_add(1);
                      },
                      &seen});
  std::atomic<int> done{0};
  for (int i = 0; i < 20; ++i)
    pool.run(3, [&](int chunk, int) {  // the caller waits for the slowest
      std::this_thread::sleep_for(std::chrono::milliseconds(chunk == 2 ? 5 : 1));
      done.fetch_add(1);
    });
  EXPECT_EQ(done.load(), 60);
  for (const auto& calls : seen.calls) EXPECT_GT(calls.load(), 0);
}

}  // namespace
}  // namespace herd
