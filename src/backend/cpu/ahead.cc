#include "backend/cpu/ahead.h"

#include <algorithm>

namespace herd::cpu {
namespace {

constexpr std::int64_t kWeightBytes = 128 << 10;  // per thread: a part of its own cache
constexpr int kWeightLines = 8;                   // at a time

}  // namespace

void WeightsAhead::set(const std::byte* data, std::int64_t bytes) {
  bytes_.store(bytes, std::memory_order_relaxed);
  data_.store(data, std::memory_order_relaxed);
}

void WeightsAhead::ask(int thread) {
  const std::byte* data = data_.load(std::memory_order_relaxed);
  Progress& progress = threads_[static_cast<std::size_t>(thread)];
  if (progress.data != data) progress = {data, 0};
  if (data == nullptr || progress.at >= kWeightBytes) return;
  const std::int64_t bytes = bytes_.load(std::memory_order_relaxed);
  const auto threads = static_cast<std::int64_t>(threads_.size());
  const std::int64_t at = bytes / threads * thread / 64 * 64 + progress.at;
  if (at < bytes)
    for (int line = 0; line < kWeightLines; ++line) __builtin_prefetch(data + at + line * 64, 0, 2);
  progress.at += kWeightLines * 64;
}

void KvAhead::create(const KvLayout& layout, const std::byte* keys, const std::byte* values) {
  layout_ = layout;
  keys_ = keys;
  values_ = values;
  near_ = false;
  const std::int64_t positions = std::int64_t{layout.kv_heads} * layout.page_size;
  key_page_bytes_ = positions * layout.key_bytes();
  value_page_bytes_ = positions * layout.value_bytes();
  stretches_.clear();  // reserved: a step allocates nothing
  stretches_.reserve(
      static_cast<std::size_t>(2 * (most_bytes_ / (key_page_bytes_ + value_page_bytes_) + 1)));
}

void KvAhead::attention_done(std::int32_t layer, const Batch& batch) {
  weights_between_ = weights_since_;
  weights_since_ = 0;
  stretches_.clear();
  std::int64_t left = layer + 1 < layout_.layers ? most_bytes_ : 0;
  for (const BatchSequence& s : batch.sequences) {
    for (std::int32_t i = 0; i * layout_.page_size < s.kv_length && left > 0; ++i) {
      const std::int64_t page = std::int64_t{layer + 1} * layout_.pages +
                                batch.block_table[static_cast<std::size_t>(s.first_page + i)];
      stretches_.push_back({keys_ + page * key_page_bytes_, keys_ + (page + 1) * key_page_bytes_});
      stretches_.push_back(
          {values_ + page * value_page_bytes_, values_ + (page + 1) * value_page_bytes_});
      left -= key_page_bytes_ + value_page_bytes_;
    }
  }
  const std::size_t n = stretches_.size(), threads = fetches_.size();
  for (std::size_t t = 0; t < threads; ++t)
    fetches_[t].fetch = {nullptr, nullptr, stretches_.data() + n * t / threads,
                         stretches_.data() + n * (t + 1) / threads};
}

void KvAhead::product_begins(std::int64_t bytes) {
  near_ = !stretches_.empty() && weights_between_ - weights_since_ <= most_between_;
  weights_since_ += bytes;
}

}  // namespace herd::cpu
