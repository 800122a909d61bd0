#include "kv/pool.h"

#include <fmt/format.h>

#include <cassert>
#include <limits>

namespace herd {

void PageQueue::push(PageId page) {
  const PageId newest = at(-1).previous;
  at(page) = {newest, -1};
  at(newest).next = page;
  at(-1).previous = page;
  ++size_;
}

void PageQueue::remove(PageId page) {
  const Link link = at(page);
  at(link.previous).next = link.next;
  at(link.next).previous = link.previous;
  --size_;
}

PagePool::PagePool(std::int32_t pages, std::int32_t page_size)
    : page_size_(page_size),
      references_(static_cast<std::size_t>(pages), 0),
      kept_(references_.size(), false),
      cached_(pages) {
  assert(pages >= 0 && page_size >= 1);
  free_.reserve(references_.size());
  for (PageId page = pages - 1; page >= 0; --page) free_.push_back(page);  // page 0 goes out first
}

Result<PageId> PagePool::allocate() {
  if (free_.empty())
    return Error{Code::resource_exhausted,
                 fmt::format("KV cache: 1 page needed, 0 of {} free", total())};
  const PageId page = free_.back();
  free_.pop_back();
  references_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void PagePool::retain(PageId page) {
  assert(page >= 0 && page < total() && (references(page) > 0 || kept(page)));
  if (references_[static_cast<std::size_t>(page)]++ == 0) cached_.remove(page);
}

void PagePool::release(PageId page) {
  assert(page >= 0 && page < total() && references(page) > 0);
  if (--references_[static_cast<std::size_t>(page)] > 0) return;
  if (kept(page))
    cached_.push(page);
  else
    free_.push_back(page);
}

PageId PagePool::evict() {
  assert(cached() > 0);
  const PageId page = cached_.oldest();
  cached_.remove(page);
  kept_[static_cast<std::size_t>(page)] = false;
  free_.push_back(page);
  return page;
}

Status PagePool::check_ownerless() const {
  std::vector<bool> listed(references_.size(), false);
  const auto list = [&](PageId page, std::string_view where) -> Status {
    const auto wrong = [&](const std::string& what) {
      return Status(Code::internal, fmt::format("KV page {} is {}{}", page, where, what));
    };
    if (page < 0 || page >= total()) return wrong(fmt::format(" but outside 0..{}", total()));
    if (listed[static_cast<std::size_t>(page)]) return wrong(" twice");
    if (references(page) != 0)
      return wrong(fmt::format(" and has {} references", references(page)));
    if (kept(page) != (where == "cached")) return wrong(kept(page) ? " but kept" : " but not kept");
    listed[static_cast<std::size_t>(page)] = true;
    return {};
  };
  for (const PageId page : free_)
    if (Status status = list(page, "free"); !status.ok()) return status;
  for (PageId page = cached_.oldest(); page >= 0; page = cached_.next(page))
    if (Status status = list(page, "cached"); !status.ok()) return status;
  std::int32_t referenced = 0;
  for (PageId page = 0; page < total(); ++page) {
    if (references(page) > 0)
      ++referenced;
    else if (!listed[static_cast<std::size_t>(page)])
      return {Code::internal,
              fmt::format("KV page {} is lost: not free, cached or referenced", page)};
  }
  if (referenced != used())
    return {Code::internal, fmt::format("KV pages: {} free, {} cached and {} in use, {} in all",
                                        free(), cached(), referenced, total())};
  return {};
}

Status PagePool::check_integrity(std::span<const PageId> owned) const {
  if (Status status = check_ownerless(); !status) return status;
  std::vector<std::int32_t> owners(references_.size(), 0);
  for (const PageId page : owned) {
    if (page < 0 || page >= total())
      return {Code::internal, fmt::format("KV page {} is owned but outside 0..{}", page, total())};
    ++owners[static_cast<std::size_t>(page)];
  }
  for (PageId page = 0; page < total(); ++page)
    if (owners[static_cast<std::size_t>(page)] != references(page))
      return {Code::internal,
              fmt::format("KV page {} has {} references and {} owners", page, references(page),
                          owners[static_cast<std::size_t>(page)])};
  return {};
}

Status BlockTable::extend(PagePool& pool, std::int32_t count) {
  const std::int64_t length = std::int64_t{length_} + count;
  if (count < 0 || length > std::numeric_limits<std::int32_t>::max())
    return {Code::invalid_argument,
            fmt::format("KV sequence of {} positions cannot be extended by {}", length_, count)};
  const std::int32_t needed = pool.pages_for(length) - static_cast<std::int32_t>(pages_.size());
  if (needed > pool.free())
    return {Code::resource_exhausted, fmt::format("KV cache: {} pages needed, {} of {} free",
                                                  needed, pool.free(), pool.total())};
  for (std::int32_t i = 0; i < needed; ++i) pages_.push_back(*pool.allocate());
  length_ = static_cast<std::int32_t>(length);
  return {};
}

void BlockTable::truncate(PagePool& pool, std::int32_t length) {
  assert(length >= 0 && length <= length_);
  const auto keep = static_cast<std::size_t>(pool.pages_for(length));
  while (pages_.size() > keep) {
    pool.release(pages_.back());
    pages_.pop_back();
  }
  length_ = length;
}

void BlockTable::adopt(PagePool& pool, PageId page) {
  assert(length_ % pool.page_size() == 0);
  pool.retain(page);
  pages_.push_back(page);
  length_ += pool.page_size();
}

void BlockTable::replace(PagePool& pool, std::size_t index, PageId page) {
  pool.retain(page);
  pool.release(pages_[index]);
  pages_[index] = page;
}

}  // namespace herd
