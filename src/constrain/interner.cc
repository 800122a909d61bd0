#include "constrain/interner.h"

#include <algorithm>

namespace herd::constrain {
namespace {

std::uint64_t hash(std::span<const std::uint32_t> words) {
  std::uint64_t h = 0x9e3779b97f4a7c15ull + words.size();
  for (const std::uint32_t word : words) {
    h = (h ^ word) * 0xff51afd7ed558ccdull;
    h ^= h >> 32;
  }
  return h;
}

}  // namespace

void Interner::clear() {
  words_.clear();
  begins_.assign(1, 0);
  slots_.assign(64, 0);
}

std::uint32_t& Interner::slot_of(std::span<const std::uint32_t> words) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash(words) & mask;
  while (slots_[at] != 0 && !std::ranges::equal((*this)[slots_[at] - 1], words))
    at = (at + 1) & mask;
  return slots_[at];
}

std::uint32_t Interner::id(std::span<const std::uint32_t> words) {
  std::uint32_t& slot = slot_of(words);
  if (slot != 0) return slot - 1;
  const std::uint32_t fresh = size();
  slot = fresh + 1;
  words_.insert(words_.end(), words.begin(), words.end());
  begins_.push_back(static_cast<std::uint32_t>(words_.size()));
  if (std::size_t{fresh} * 2 > slots_.size()) grow();
  return fresh;
}

void Interner::grow() {
  slots_.assign(slots_.size() * 2, 0);
  for (std::uint32_t id = 0; id < size(); ++id) slot_of((*this)[id]) = id + 1;
}

}  // namespace herd::constrain
