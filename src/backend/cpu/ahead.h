// Memory that is asked for before it is read, so that it moves while nothing else wants it: weights
// while a thread waits, keys and values while products keep the arithmetic units busy. Nothing here
// changes a result, and asking for a wrong address does no harm.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/table.h"

namespace herd::cpu {

/// Products of few rows are bound by reading weights: what a thread that waits asks for is its
/// share of the matrix that comes next.
class WeightsAhead {
 public:
  explicit WeightsAhead(int threads) : threads_(static_cast<std::size_t>(threads)) {}

  /// `data` [bytes] comes next; null for nothing. Safe beside ask().
  void set(const std::byte* data, std::int64_t bytes);
  /// A few lines more of this thread's share, up to a part of its own cache.
  void ask(int thread);

 private:
  struct alignas(64) Progress {
    const std::byte* data = nullptr;
    std::int64_t at = 0;
  };
  std::atomic<const std::byte*> data_{nullptr};  // need not agree with bytes_ while they change
  std::atomic<std::int64_t> bytes_{0};
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

  /// For a pool that begins at `keys` and `values`.
  void create(const KvLayout& layout, const std::byte* keys, const std::byte* values);
  /// Attention of `layer` is over: what comes next is that of the layer behind it.
  void attention_done(std::int32_t layer, const Batch& batch);
  /// A product of matrices of `bytes` begins. REQUIRES: no thread holds a fetch().
  void product_begins(std::int64_t bytes);
  /// What this thread's kernels should ask for on the way; null if nothing.
  Fetch* fetch(int thread) {
    return near_ ? &fetches_[static_cast<std::size_t>(thread)].fetch : nullptr;
  }

 private:
  struct alignas(64) ThreadFetch {
    Fetch fetch = {};
  };
  const std::int64_t most_bytes_;    // asked for a layer
  const std::int64_t most_between_;  // weights read between a request and its use
  KvLayout layout_;
  const std::byte *keys_ = nullptr, *values_ = nullptr;
  std::int64_t key_page_bytes_ = 0, value_page_bytes_ = 0;  // of all heads
  std::vector<Stretch> stretches_;                          // of the coming layer
  std::vector<ThreadFetch> fetches_;
  std::int64_t weights_since_ = 0;    // the last attention
  std::int64_t weights_between_ = 0;  // the two attentions before
  bool near_ = false;
};

}  // namespace herd::cpu
