#include "token/merges.h"

#include <algorithm>
#include <functional>

namespace herd {
namespace {

constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

std::uint64_t pair_key(std::uint32_t left, std::uint32_t right) {
  return (std::uint64_t{left} << 32) | right;
}

}  // namespace

PairTable::PairTable(std::size_t expected) {
  std::size_t slots = 16;
  while (slots < expected * 2) slots *= 2;
  slots_.resize(slots);
}

std::size_t PairTable::probe(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  std::uint64_t h = pair * 0x9e3779b97f4a7c15ull;
  std::size_t i = (h ^ (h >> 32)) & mask;
  while (slots_[i].pair != pair && slots_[i].pair != kEmpty) i = (i + 1) & mask;
  return i;
}

void PairTable::insert(std::uint32_t left, std::uint32_t right, Merge merge) {
  if ((count_ + 1) * 2 > slots_.size()) grow();
  Slot& slot = slots_[probe(pair_key(left, right))];
  if (slot.pair != kEmpty) return;
  slot = {pair_key(left, right), merge};
  ++count_;
}

PairTable::Merge PairTable::find(std::uint32_t left, std::uint32_t right) const {
  if (left == kNone || right == kNone) return {};
  return slots_[probe(pair_key(left, right))].merge;  // an empty slot holds "never"
}

void PairTable::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old)
    if (slot.pair != kEmpty) slots_[probe(slot.pair)] = slot;
}

void MergeBuffer::push(std::uint32_t id, std::size_t begin) {
  const auto index = static_cast<std::uint32_t>(symbols_.size());
  symbols_.push_back({id, static_cast<std::uint32_t>(begin), index - 1, PairTable::kNone, {}});
  if (index > 0) symbols_[index - 1].next = index;
}

void MergeBuffer::update_pair(const PairTable& table, std::uint32_t left) {
  Symbol& symbol = symbols_[left];
  symbol.with_next = symbol.next == PairTable::kNone
                         ? PairTable::Merge{}
                         : table.find(symbol.id, symbols_[symbol.next].id);
}

void MergeBuffer::queue(std::uint32_t left) {
  const std::uint32_t rank = symbols_[left].with_next.rank;
  if (rank != PairTable::kNone) heap_.push_back(pair_key(rank, left));
}

void MergeBuffer::run(const PairTable& table) {
  const auto later = std::greater<std::uint64_t>();
  auto requeue = [&](std::uint32_t left) {
    update_pair(table, left);
    if (symbols_[left].with_next.rank == PairTable::kNone) return;
    queue(left);
    std::push_heap(heap_.begin(), heap_.end(), later);
  };
  heap_.clear();
  for (std::uint32_t i = 0; i < symbols_.size(); ++i) {
    update_pair(table, i);
    queue(i);
  }
  std::make_heap(heap_.begin(), heap_.end(), later);
  while (!heap_.empty()) {
    const auto rank = static_cast<std::uint32_t>(heap_.front() >> 32);
    const auto left = static_cast<std::uint32_t>(heap_.front());
    std::pop_heap(heap_.begin(), heap_.end(), later);
    heap_.pop_back();
    Symbol& symbol = symbols_[left];
    if (symbol.with_next.rank != rank) continue;  // one of the two has merged elsewhere since
    Symbol& gone = symbols_[symbol.next];
    symbol.id = symbol.with_next.symbol;
    symbol.next = gone.next;
    gone.with_next = {};
    if (symbol.next != PairTable::kNone) symbols_[symbol.next].prev = left;
    requeue(left);
    if (symbol.prev != PairTable::kNone) requeue(symbol.prev);
  }
}

}  // namespace herd
