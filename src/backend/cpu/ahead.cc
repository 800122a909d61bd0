#include "backend/cpu/ahead.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace herd::cpu {
namespace {

constexpr std::int64_t kAtATime = 8 * 64;  // bytes

void ask_some(Fetch& f) {
  if (!goes_on(f)) return;
  ask_for<CacheLevel::second>(f.at, kAtATime);
  f.at += kAtATime;
}

}  // namespace

WeightsAhead::WeightsAhead(int threads) : threads_(static_cast<std::size_t>(threads)) {
  for (Progress& p : threads_) p.stretches.reserve(1024);
}

bool WeightsAhead::is_new(int thread, std::uint64_t product) {
  return std::exchange(threads_[static_cast<std::size_t>(thread)].product, product) != product;
}

std::int64_t WeightsAhead::asked_of_next(const Progress& p) {
  const Stretch* from = p.stretches.data() + p.share;
  if (p.fetch.next <= from) return 0;
  std::int64_t asked = 0;
  for (const Stretch* s = from; s < p.fetch.next; ++s) asked += s->end - s->at;
  return asked - std::max<std::int64_t>(0, p.fetch.end - p.fetch.at);
}

void WeightsAhead::begin(int thread, const Share& share, const Share& next, bool kept) {
  Progress& p = threads_[static_cast<std::size_t>(thread)];
  const bool expected = kept && share.division.begin(share.first) == p.next_begin;
  const std::int64_t skip = std::min(kAheadBytes, expected ? asked_of_next(p) : 0);
  p.stretches.clear();
  share.division.stretches(share.first, share.end, skip, std::numeric_limits<std::int64_t>::max(),
                           p.stretches);
  p.share = p.stretches.size();
  next.division.stretches(next.first, next.end, 0, kNextBytes, p.stretches);
  p.next_begin = next.first < next.end ? next.division.begin(next.first) : nullptr;
  p.fetch = {nullptr, nullptr, p.stretches.data(), p.stretches.data() + p.stretches.size()};
  // A kernel asks for as much as it reads, so it stays as far ahead as it begins.
  for (std::int64_t asked = skip; asked < kAheadBytes; asked += kAtATime) ask_some(p.fetch);
}

void WeightsAhead::ask(int thread) {
  Progress& p = threads_[static_cast<std::size_t>(thread)];
  Fetch& f = p.fetch;
  const Stretch *from = p.stretches.data() + p.share,
                *last = p.stretches.data() + p.stretches.size();
  if (f.next <= from) f = {nullptr, nullptr, from, last};  // its share has been read
  ask_some(f);
}

void KvAhead::create(const KvPool& pool) {
  pool_ = pool;
  near_ = false;
  const std::int64_t page_bytes = pool.key_page_bytes() + pool.value_page_bytes();
  stretches_.clear();  // reserved: a step allocates nothing
  stretches_.reserve(static_cast<std::size_t>(2 * (most_bytes_ / page_bytes + 1)));
}

void KvAhead::attention_done(std::int32_t layer, const Batch& batch) {
  weights_between_ = weights_since_;
  weights_since_ = 0;
  stretches_.clear();
  std::int64_t left = layer + 1 < pool_.layers ? most_bytes_ : 0;
  const auto ask = [&](const std::byte* page, std::int64_t bytes) {
    stretches_.push_back({page, page + bytes});
    left -= bytes;
  };
  for (const BatchSequence& s : batch.sequences)
    for (std::int32_t head = 0; head < pool_.kv_heads; ++head)
      for (std::int32_t i = 0; i * pool_.page_size < s.kv_length && left > 0; ++i) {
        const std::int32_t page = batch.block_table[static_cast<std::size_t>(s.first_page + i)];
        ask(pool_.key_page(layer + 1, page, head), pool_.key_page_bytes());
        ask(pool_.value_page(layer + 1, page, head), pool_.value_page_bytes());
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
