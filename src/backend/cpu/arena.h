// Memory for what is read in long runs every step: weights, keys and values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace herd::cpu {

/// A stack of pieces in large blocks that the system is asked to back with huge pages: with pages
/// of 4 KiB, reading weights of a hundred megabytes spends a fifth of its time on translating
/// addresses (docs/performance.md). Not thread-safe.
class Arena {
 public:
  Arena() = default;
  ~Arena() { release_to(0); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Zeroed, 64-byte aligned, there until released; null when memory is out. The system brings a
  /// page in when it is first touched, so that what is not used costs no time and no memory.
  /// REQUIRES: bytes >= 0.
  std::byte* take(std::int64_t bytes);
  /// Pieces taken and not released.
  std::size_t pieces() const { return pieces_.size(); }
  /// Gives all but the first `pieces` back.
  void release_to(std::size_t pieces);

 private:
  struct Block {
    std::byte* memory;
    std::int64_t bytes, used;
    std::int64_t touched;  // the most that was ever used
  };
  struct Piece {
    std::size_t block;    // it stands in
    std::int64_t before;  // used of that block before it was taken
  };
  bool add_block(std::int64_t bytes);

  std::vector<Block> blocks_;
  std::vector<Piece> pieces_;
};

}  // namespace herd::cpu
