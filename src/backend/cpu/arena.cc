#include "backend/cpu/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace herd::cpu {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kLeastBlock = 8 * kHugePage;

std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

bool Arena::add_block(std::int64_t bytes) {
  const std::int64_t size = std::max(round_up(bytes, kHugePage), kLeastBlock);
  // A huge page starts at a multiple of its size: map one more and cut the ends off.
  void* mapped = mmap(nullptr, static_cast<std::size_t>(size + kHugePage), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return false;
  std::byte* start = static_cast<std::byte*>(mapped);
  const std::int64_t skip =
      round_up(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(start)), kHugePage) -
      static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(start));
  if (skip > 0) munmap(start, static_cast<std::size_t>(skip));
  if (skip < kHugePage) munmap(start + skip + size, static_cast<std::size_t>(kHugePage - skip));
#ifdef MADV_HUGEPAGE
  madvise(start + skip, static_cast<std::size_t>(size),
          MADV_HUGEPAGE);  // a wish: it may be refused
#endif
  blocks_.push_back({start + skip, size, 0, 0});
  return true;
}

std::byte* Arena::take(std::int64_t bytes) {
  if (bytes > (std::int64_t{1} << 62)) return nullptr;
  const std::int64_t size = round_up(bytes, 64);
  if ((blocks_.empty() || blocks_.back().bytes - blocks_.back().used < size) && !add_block(size))
    return nullptr;
  Block& block = blocks_.back();
  pieces_.push_back({blocks_.size() - 1, block.used});
  std::byte* piece = block.memory + block.used;
  // What nobody has had yet is zero, and need not be there before it is used.
  if (block.used < block.touched)
    std::memset(piece, 0, static_cast<std::size_t>(std::min(size, block.touched - block.used)));
  block.used += size;
  block.touched = std::max(block.touched, block.used);
  return piece;
}

void Arena::release_to(std::size_t pieces) {
  while (pieces_.size() > pieces) {
    const Piece piece = pieces_.back();
    pieces_.pop_back();
    for (; blocks_.size() > piece.block + 1; blocks_.pop_back())
      munmap(blocks_.back().memory, static_cast<std::size_t>(blocks_.back().bytes));
    blocks_.back().used = piece.before;
  }
  if (pieces > 0) return;
  for (; !blocks_.empty(); blocks_.pop_back())
    munmap(blocks_.back().memory, static_cast<std::size_t>(blocks_.back().bytes));
}

}  // namespace herd::cpu
