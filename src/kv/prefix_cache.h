// Full pages of keys and values, found again by the tokens they hold: sequences that begin alike
// share pages, and what ended stays until its pages are needed. A hit changes no bit of an answer,
// because a row's result does not depend on who computed the rows before it (docs/numerics.md).
// Thread-compatible: the engine thread owns it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "herd/types.h"
#include "kv/pool.h"

namespace herd {

/// Who may find a page: nothing is shared between different partitions (API keys).
using CachePartition = std::uint64_t;

/// Owns the pool. A shared page is known by (its partition, the page before it, its tokens). The
/// page before it is shared as well, so by induction that is the whole text up to here; a hash
/// finds candidates, and comparing all three decides. Nothing is allocated after construction.
///
/// Whoever owns a page owns those before it, and tables let go of their last page first. So the
/// pool evicts a page after all that continue it, and "the page before" never names another page.
class PrefixCache {
 public:
  /// REQUIRES: as PagePool.
  PrefixCache(std::int32_t pages, std::int32_t page_size);

  PagePool& pool() { return pool_; }
  const PagePool& pool() const { return pool_; }
  /// Pages that can be had: free, or cached by nobody's use.
  std::int32_t available() const { return pool_.free() + pool_.cached(); }

  /// Lets `table`, which holds the first length() of `ids`, go on with shared pages as far as they
  /// hold `ids`. Returns the tokens gained. REQUIRES: length() is a multiple of the page size.
  std::int32_t adopt(BlockTable& table, CachePartition partition, std::span<const TokenId> ids);
  /// Shares every full page of `ids`, the first tokens of `table`. Where such a page is shared
  /// already, the table changes over to that one. REQUIRES: their keys and values are computed, and
  /// known to be right.
  void share(BlockTable& table, CachePartition partition, std::span<const TokenId> ids);
  /// Evicts until `count` pages are free. REQUIRES: count <= available().
  void make_free(std::int32_t count);
  bool shared(PageId page) const { return pool_.kept(page); }

  /// The pool's integrity, and that every shared page can be found, behind a shared page that is
  /// evicted later. Error: internal, naming the page.
  Status check_integrity(std::span<const PageId> owned) const;

 private:
  friend struct PrefixCachePeer;  // plants faults in the tests
  struct Entry {
    CachePartition partition = 0;
    PageId before = -1;  // the page of the tokens before these; -1: they are the first
    std::uint64_t hash = 0;
    PageId next = -1;  // in the same bucket
  };
  Entry make_entry(CachePartition partition, PageId before, std::span<const TokenId> ids) const;
  PageId find(const Entry& wanted, std::span<const TokenId> ids) const;
  void insert(PageId page, const Entry& entry, std::span<const TokenId> ids);
  void remove(PageId page);
  std::span<const TokenId> tokens(PageId page) const;
  PageId& bucket(std::uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }

  PagePool pool_;
  std::vector<Entry> entries_;   // [pages], meaningful for shared pages
  std::vector<TokenId> tokens_;  // [pages][page_size], of shared pages
  std::vector<PageId> buckets_;  // [a power of two], first page or -1
};

}  // namespace herd
