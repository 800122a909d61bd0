#include "kv/pool.h"

#include <fmt/format.h>

#include <cassert>
#include <limits>

namespace herd {

PagePool::PagePool(std::int32_t pages, std::int32_t page_size)
    : page_size_(page_size), references_(static_cast<std::size_t>(pages), 0) {
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
  assert(page >= 0 && page < total() && references(page) > 0);
  ++references_[static_cast<std::size_t>(page)];
}

void PagePool::release(PageId page) {
  assert(page >= 0 && page < total() && references(page) > 0);
  if (--references_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

Status PagePool::check_free_list() const {
  std::vector<bool> listed(references_.size(), false);
  for (const PageId page : free_) {
    if (page < 0 || page >= total())
      return {Code::internal, fmt::format("KV page {} is free but outside 0..{}", page, total())};
    if (listed[static_cast<std::size_t>(page)])
      return {Code::internal, fmt::format("KV page {} is free twice", page)};
    if (references(page) != 0)
      return {Code::internal,
              fmt::format("KV page {} is free and has {} references", page, references(page))};
    listed[static_cast<std::size_t>(page)] = true;
  }
  for (PageId page = 0; page < total(); ++page)
    if (references(page) == 0 && !listed[static_cast<std::size_t>(page)])
      return {Code::internal, fmt::format("KV page {} is lost: neither free nor referenced", page)};
  return {};
}

Status PagePool::check_integrity(std::span<const PageId> owned) const {
  if (Status status = check_free_list(); !status) return status;
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

}  // namespace herd
