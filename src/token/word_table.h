// Byte strings to small numbers: open addressing over strings that live elsewhere.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace herd {

/// Holds views: the strings must stay where they are for as long as the table is used.
class WordTable {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;

  explicit WordTable(std::size_t expected = 0) {
    std::size_t slots = 16;
    while (slots < expected * 2) slots *= 2;
    slots_.resize(slots);
  }

  /// False, and nothing changes, if `key` is there already.
  bool insert(std::string_view key, std::uint32_t value) {
    if ((count_ + 1) * 2 > slots_.size()) grow();
    Slot& slot = slots_[probe(key)];
    if (slot.value != kNone) return false;
    slot = {key, value};
    ++count_;
    return true;
  }

  std::uint32_t find(std::string_view key) const { return slots_[probe(key)].value; }

 private:
  struct Slot {
    std::string_view key;
    std::uint32_t value = kNone;
  };

  static std::uint64_t hash(std::string_view key) {
    std::uint64_t h = key.size() * 0x9e3779b97f4a7c15ull;
    const char* p = key.data();
    for (std::size_t left = key.size(); left > 0;) {
      const std::size_t n = left < 8 ? left : 8;
      std::uint64_t chunk = 0;
      std::memcpy(&chunk, p, n);
      h = (h ^ chunk) * 0xff51afd7ed558ccdull;
      h ^= h >> 32;
      p += n;
      left -= n;
    }
    return h;
  }

  std::size_t probe(std::string_view key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = hash(key) & mask;
    while (slots_[i].value != kNone && slots_[i].key != key) i = (i + 1) & mask;
    return i;
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.value != kNone) slots_[probe(slot.key)] = slot;
  }

  std::vector<Slot> slots_;
  std::size_t count_ = 0;
};

}  // namespace herd
