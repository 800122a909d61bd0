// Memory that is asked for before it is read, so that it moves while nothing else wants it: weights
// while a thread waits, keys and values while products keep the arithmetic units busy. Nothing here
// changes a result, and asking for a wrong address does no harm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/division.h"
#include "backend/cpu/kv_pool.h"
#include "backend/cpu/table.h"
#include "base/prefetch.h"

namespace herd::cpu {

/// Products of few rows are bound by reading weights. A thread reads its shares of them one product
/// after another, as if they were one run of memory. Its kernels ask for a little more than they
/// have read, in the order they read in and into the first level of cache, for as many bytes as
/// they read; while it waits it asks for the first part of what comes next, into the second level.
/// Threads may call at the same time, each for itself.
class WeightsAhead {
 public:
  static constexpr std::int64_t kNextBytes = 64 << 10;  // of the next share, while it waits
  static constexpr std::int64_t kAheadBytes = 8 << 10;  // that kernels are ahead of what they read

  /// Chunks [first, end) of a product; none if it is not known.
  struct Share {
    const Division& division;
    int first, end;
  };

  explicit WeightsAhead(int threads);

  /// Whether `thread` comes to this product for the first time; then it calls begin().
  bool is_new(int thread, std::uint64_t product);
  /// `share` is what the thread reads now, `next` what it will read after that. `kept`: what was
  /// asked for is still in its cache. Allocates only for longer shares than ever before.
  void begin(int thread, const Share& share, const Share& next, bool kept);
  /// For kernels of the product it has begun.
  Fetch* fetch(int thread) { return &threads_[static_cast<std::size_t>(thread)].fetch; }
  /// A few lines more of what comes next.
  void ask(int thread);

 private:
  struct alignas(64) Progress {
    Fetch fetch = {};
    std::uint64_t product = 0;
    std::vector<Stretch> stretches;         // of the share, then of what comes next
    std::size_t share = 0;                  // stretches of it
    const std::byte* next_begin = nullptr;  // of the chunks that come next
  };
  static std::int64_t asked_of_next(const Progress& p);

  std::vector<Progress> threads_;
};

/// Attention of many sequences is bound by reading keys and values, products of many rows are not
/// bound by reading. So products ask for what the next layer's attention will read, as far as the
/// last level of cache keeps it until then. Not thread-safe, but for fetch() of different threads.
class KvAhead {
 public:
  /// `cache`: bytes of the last level.
  KvAhead(int threads, std::int64_t cache)
      : most_bytes_(cache / 2),
        most_between_(cache / 4),
        fetches_(static_cast<std::size_t>(threads)) {}

  void create(const KvPool& pool);
  /// Attention of `layer` is over: what comes next is that of the layer behind it.
  void attention_done(std::int32_t layer, const Batch& batch);
  /// A product of matrices of `bytes` begins. REQUIRES: no thread holds a fetch().
  void product_begins(std::int64_t bytes);
  struct alignas(64) ThreadFetch {
    Fetch fetch = {};
  };
  /// What each thread's kernels should ask for on the way, [threads]; null if nothing.
  ThreadFetch* fetches() { return near_ ? fetches_.data() : nullptr; }
  /// Of them, one thread's.
  static Fetch* of_thread(ThreadFetch* fetches, int thread) {
    return fetches == nullptr ? nullptr : &fetches[thread].fetch;
  }

 private:
  const std::int64_t most_bytes_;    // asked for a layer
  const std::int64_t most_between_;  // weights read between a request and its use
  KvPool pool_;
  std::vector<Stretch> stretches_;  // of the coming layer
  std::vector<ThreadFetch> fetches_;
  std::int64_t weights_since_ = 0;    // the last attention
  std::int64_t weights_between_ = 0;  // the two attentions before
  bool near_ = false;
};

}  // namespace herd::cpu
