#include "kv/prefix_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>

#include "base/rng.h"

namespace herd {

PrefixCache::PrefixCache(std::int32_t pages, std::int32_t page_size)
    : pool_(pages, page_size),
      entries_(static_cast<std::size_t>(pages)),
      tokens_(static_cast<std::size_t>(pages) * static_cast<std::size_t>(page_size)),
      buckets_(std::bit_ceil(static_cast<std::size_t>(pages) + 1), -1) {}

std::int32_t PrefixCache::adopt(BlockTable& table, CachePartition partition,
                                std::span<const TokenId> ids) {
  const auto size = static_cast<std::size_t>(pool_.page_size());
  const std::int32_t before = table.length();
  for (;;) {
    const auto length = static_cast<std::size_t>(table.length());
    if (length + size > ids.size()) break;
    const auto next = ids.subspan(length, size);
    const PageId last = table.pages().empty() ? -1 : table.pages().back();
    if (last >= 0 && !shared(last)) break;  // nothing can be known to follow it
    const PageId page = find(make_entry(partition, last, next), next);
    if (page < 0) break;
    table.adopt(pool_, page);
  }
  return table.length() - before;
}

void PrefixCache::share(BlockTable& table, CachePartition partition, std::span<const TokenId> ids) {
  const auto size = static_cast<std::size_t>(pool_.page_size());
  const std::size_t full = ids.size() / size;
  assert(full <= table.pages().size());
  std::size_t k = full;
  while (k > 0 && !shared(table.pages()[k - 1])) --k;
  for (; k < full; ++k) {
    const PageId page = table.pages()[k], last = k == 0 ? -1 : table.pages()[k - 1];
    const auto own = ids.subspan(k * size, size);
    const Entry entry = make_entry(partition, last, own);
    if (const PageId same = find(entry, own); same >= 0)
      table.replace(pool_, k, same);
    else
      insert(page, entry, own);
  }
}

void PrefixCache::make_free(std::int32_t count) {
  while (pool_.free() < count) remove(pool_.evict());
}

// ---- the index ----

PrefixCache::Entry PrefixCache::make_entry(CachePartition partition, PageId before,
                                           std::span<const TokenId> ids) const {
  std::uint64_t hash = before < 0 ? partition : entries_[static_cast<std::size_t>(before)].hash;
  for (const TokenId id : ids) hash = counter_bits(hash, static_cast<std::uint64_t>(id));
  return {partition, before, hash, -1};
}

std::span<const TokenId> PrefixCache::tokens(PageId page) const {
  const auto size = static_cast<std::size_t>(pool_.page_size());
  return std::span(tokens_).subspan(static_cast<std::size_t>(page) * size, size);
}

PageId PrefixCache::find(const Entry& wanted, std::span<const TokenId> ids) const {
  PageId page = buckets_[wanted.hash & (buckets_.size() - 1)];
  for (; page >= 0; page = entries_[static_cast<std::size_t>(page)].next) {
    const Entry& entry = entries_[static_cast<std::size_t>(page)];
    if (entry.hash == wanted.hash && entry.partition == wanted.partition &&
        entry.before == wanted.before && std::ranges::equal(tokens(page), ids))
      break;
  }
  return page;
}

void PrefixCache::insert(PageId page, const Entry& entry, std::span<const TokenId> ids) {
  const auto at = static_cast<std::size_t>(page);
  entries_[at] = entry;
  entries_[at].next = std::exchange(bucket(entry.hash), page);
  std::ranges::copy(ids, tokens_.begin() + static_cast<std::ptrdiff_t>(at * ids.size()));
  pool_.keep(page);
}

void PrefixCache::remove(PageId page) {
  const Entry& entry = entries_[static_cast<std::size_t>(page)];
  PageId* link = &bucket(entry.hash);
  while (*link != page) link = &entries_[static_cast<std::size_t>(*link)].next;
  *link = entry.next;
}

Status PrefixCache::check_integrity(std::span<const PageId> owned) const {
  if (Status status = pool_.check_integrity(owned); !status.ok()) return status;
  const auto wrong = [](PageId page, std::string_view what) {
    return Status(Code::internal, fmt::format("KV page {} is shared and {}", page, what));
  };
  std::vector<bool> evicted(entries_.size(), false);  // earlier than the page looked at
  for (PageId page = pool_.queue().oldest(); page >= 0; page = pool_.queue().next(page)) {
    evicted[static_cast<std::size_t>(page)] = true;
    const PageId before = entries_[static_cast<std::size_t>(page)].before;
    if (before >= 0 && evicted[static_cast<std::size_t>(before)])
      return wrong(page, "outlives the page before it");
  }
  for (PageId page = 0; page < pool_.total(); ++page) {
    if (!shared(page)) continue;
    const Entry& entry = entries_[static_cast<std::size_t>(page)];
    if (find(entry, tokens(page)) != page) return wrong(page, "cannot be found");
    if (entry.before < 0) continue;
    if (!shared(entry.before)) return wrong(page, "the page before it is not");
    if (pool_.references(page) > 0 && pool_.references(entry.before) == 0)
      return wrong(page, "in use, the page before it is not");
  }
  return {};
}

}  // namespace herd
