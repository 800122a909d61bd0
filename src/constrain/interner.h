// Sequences of words by number: equal ones share one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace herd::constrain {

class Interner {
 public:
  Interner() { clear(); }
  /// The number of `words`: the next free one if they are new.
  std::uint32_t id(std::span<const std::uint32_t> words);
  std::span<const std::uint32_t> operator[](std::uint32_t id) const {
    return std::span(words_).subspan(begins_[id], begins_[id + 1] - begins_[id]);
  }
  std::uint32_t size() const { return static_cast<std::uint32_t>(begins_.size() - 1); }
  std::size_t bytes() const {
    return (words_.size() + begins_.size() + slots_.size()) * sizeof(std::uint32_t);
  }
  void clear();

 private:
  std::uint32_t& slot_of(std::span<const std::uint32_t> words);
  void grow();

  std::vector<std::uint32_t> words_, begins_;
  std::vector<std::uint32_t> slots_;  // id + 1, or 0: free; a power of two of them
};

}  // namespace herd::constrain
