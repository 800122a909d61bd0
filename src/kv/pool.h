// Which page belongs to whom. Host integers only: the bytes are the backend's.
// Thread-compatible: the engine thread owns it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "herd/status.h"

namespace herd {

using PageId = std::int32_t;

/// Pages in the order they came: O(1) at both ends and in the middle, each page at most once.
class PageQueue {
 public:
  explicit PageQueue(std::int32_t pages) : links_(static_cast<std::size_t>(pages) + 1) {}
  /// The page that came first, or -1. REQUIRES of the others: push: absent; remove: present.
  PageId oldest() const { return links_.back().next; }
  PageId next(PageId page) const { return links_[static_cast<std::size_t>(page)].next; }  // or -1
  std::int32_t size() const { return size_; }
  void push(PageId page);
  void remove(PageId page);

 private:
  struct Link {
    PageId previous = -1, next = -1;
  };
  Link& at(PageId page) {
    return page < 0 ? links_.back() : links_[static_cast<std::size_t>(page)];
  }
  std::vector<Link> links_;  // [pages + 1], a ring closed by the last, which page -1 stands for
  std::int32_t size_ = 0;
};

/// A fixed set of pages with reference counts. free() + used() + cached() == total(). A page that
/// is kept is cached, not freed, when its last owner goes. Nothing is allocated after construction.
class PagePool {
 public:
  /// REQUIRES: pages >= 0, page_size >= 1 (positions per page).
  PagePool(std::int32_t pages, std::int32_t page_size);

  std::int32_t page_size() const { return page_size_; }
  std::int32_t total() const { return static_cast<std::int32_t>(references_.size()); }
  std::int32_t free() const { return static_cast<std::int32_t>(free_.size()); }
  std::int32_t cached() const { return cached_.size(); }  // no owner, contents still wanted
  std::int32_t used() const { return total() - free() - cached(); }
  std::int32_t references(PageId page) const { return references_[static_cast<std::size_t>(page)]; }
  /// Pages that `positions` positions need.
  std::int32_t pages_for(std::int64_t positions) const {
    return static_cast<std::int32_t>((positions + page_size_ - 1) / page_size_);
  }

  /// A page with one reference. Error: resource_exhausted when none is free; nothing changed.
  Result<PageId> allocate();
  /// One more owner. REQUIRES: the page is in use or cached.
  void retain(PageId page);
  /// One owner less; the last one frees the page, or caches it if it is kept. REQUIRES: in use.
  void release(PageId page);

  /// From now on the page's contents outlive its owners. REQUIRES: in use, not kept.
  void keep(PageId page) { kept_[static_cast<std::size_t>(page)] = true; }
  bool kept(PageId page) const { return kept_[static_cast<std::size_t>(page)]; }
  /// Frees the cached page whose last owner went first, and returns it. REQUIRES: cached() > 0.
  PageId evict();
  /// Cached pages in the order evict() takes them.
  const PageQueue& queue() const { return cached_; }

  /// Every page is either free once, cached once or referenced. `owned` lists each page once per
  /// reference held (all tables of all sequences, concatenated). Error: internal, naming the page.
  Status check_integrity(std::span<const PageId> owned) const;

 private:
  friend struct PagePoolPeer;  // plants faults in the tests
  Status check_ownerless() const;

  std::int32_t page_size_;
  std::vector<std::int32_t> references_;  // [total]
  std::vector<bool> kept_;                // [total]
  std::vector<PageId> free_;              // a stack; capacity total
  PageQueue cached_;                      // kept, no references
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
  /// Goes on with a page that others share, full of the tokens that come next. REQUIRES: length()
  /// is a multiple of the page size; the page is in use or cached.
  void adopt(PagePool& pool, PageId page);
  /// Page number `index` gives way to one with the same contents. REQUIRES: as adopt.
  void replace(PagePool& pool, std::size_t index, PageId page);
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
