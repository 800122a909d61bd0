// Which page belongs to whom. Host integers only: the bytes are the backend's.
// Thread-compatible: the engine thread owns it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "herd/status.h"

namespace herd {

using PageId = std::int32_t;

/// A fixed set of pages with reference counts. Nothing is allocated after construction.
class PagePool {
 public:
  /// REQUIRES: pages >= 0, page_size >= 1 (positions per page).
  PagePool(std::int32_t pages, std::int32_t page_size);

  std::int32_t page_size() const { return page_size_; }
  std::int32_t total() const { return static_cast<std::int32_t>(references_.size()); }
  std::int32_t free() const { return static_cast<std::int32_t>(free_.size()); }
  std::int32_t used() const { return total() - free(); }
  std::int32_t references(PageId page) const { return references_[static_cast<std::size_t>(page)]; }
  /// Pages that `positions` positions need.
  std::int32_t pages_for(std::int64_t positions) const {
    return static_cast<std::int32_t>((positions + page_size_ - 1) / page_size_);
  }

  /// A page with one reference. Error: resource_exhausted when none is free; nothing changed.
  Result<PageId> allocate();
  /// One more owner. REQUIRES: the page is in use.
  void retain(PageId page);
  /// One owner less; the last one frees the page. REQUIRES: the page is in use.
  void release(PageId page);

  /// Every page is either free once or referenced, never both. `owned` lists each page once per
  /// reference held (all tables of all sequences, concatenated). Error: internal, naming the page.
  Status check_integrity(std::span<const PageId> owned) const;

 private:
  friend struct PagePoolPeer;  // plants faults in the tests
  Status check_free_list() const;

  std::int32_t page_size_;
  std::vector<std::int32_t> references_;  // [total]
  std::vector<PageId> free_;              // a stack; capacity total
};

/// The pages of one sequence in order of position, and how many positions they hold.
class BlockTable {
 public:
  /// `capacity`: most pages this table will ever hold, reserved now.
  explicit BlockTable(std::int32_t capacity = 0) {
    pages_.reserve(static_cast<std::size_t>(capacity));
  }

  std::span<const PageId> pages() const { return pages_; }
  std::int32_t length() const { return length_; }

  /// Makes room for positions [length, length + count) and counts them in. All or nothing.
  /// Error: resource_exhausted, saying how many pages were needed and free.
  Status extend(PagePool& pool, std::int32_t count);
  /// Forgets positions from `length` on; pages no longer needed go back. REQUIRES: length <=
  /// length().
  void truncate(PagePool& pool, std::int32_t length);
  void clear(PagePool& pool) { truncate(pool, 0); }
  /// Where position `position` lives: page * page_size + offset. REQUIRES: position < length().
  std::int32_t slot(const PagePool& pool, std::int32_t position) const {
    return pages_[static_cast<std::size_t>(position / pool.page_size())] * pool.page_size() +
           position % pool.page_size();
  }

 private:
  std::vector<PageId> pages_;
  std::int32_t length_ = 0;
};

}  // namespace herd
