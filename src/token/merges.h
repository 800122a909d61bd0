// The one algorithm under both tokenisers: merge the best adjacent pair until none is left.
#pragma once

#include <cstdint>
#include <vector>

namespace herd {

/// (left symbol, right symbol) -> (rank, merged symbol); lower ranks merge first.
class PairTable {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;  // no symbol, no rank

  struct Merge {
    std::uint32_t rank = kNone;
    std::uint32_t symbol = kNone;
  };

  explicit PairTable(std::size_t expected = 0);
  /// The first rank of a pair stays. REQUIRES: neither symbol is kNone.
  void insert(std::uint32_t left, std::uint32_t right, Merge merge);
  Merge find(std::uint32_t left, std::uint32_t right) const;  // rank kNone: these never merge

 private:
  struct Slot {
    std::uint64_t pair = ~std::uint64_t{0};
    Merge merge;
  };
  std::size_t probe(std::uint64_t pair) const;
  void grow();

  std::vector<Slot> slots_;
  std::size_t count_ = 0;
};

/// One word being merged. Reuse it: its buffers keep their memory. Not thread-safe.
class MergeBuffer {
 public:
  /// Words are cut to this many symbols, so that an index fits 32 bits.
  static constexpr std::size_t kMaxSymbols = std::size_t{1} << 30;

  struct Symbol {
    std::uint32_t id;            // kNone: unknown, merges with nothing
    std::uint32_t begin;         // byte offset in the word
    std::uint32_t prev, next;    // kNone at the ends
    PairTable::Merge with_next;  // what this and `next` become
  };

  void clear() { symbols_.clear(); }
  std::size_t size() const { return symbols_.size(); }
  void push(std::uint32_t id, std::size_t begin);

  /// Merges by (rank, leftmost) until no pair is in the table. O(n log n).
  void run(const PairTable& table);

  /// What is left, in order: visit(id, begin, end) with byte offsets. `word_bytes` ends the last.
  template <class Visit>
  void for_each(std::size_t word_bytes, Visit&& visit) const {
    if (symbols_.empty()) return;
    for (std::uint32_t i = 0; i != PairTable::kNone; i = symbols_[i].next) {
      const std::uint32_t next = symbols_[i].next;
      const std::size_t end = next == PairTable::kNone ? word_bytes : symbols_[next].begin;
      visit(symbols_[i].id, static_cast<std::size_t>(symbols_[i].begin), end);
    }
  }

  /// The single symbol left, or kNone if there is not exactly one.
  std::uint32_t only() const {
    if (symbols_.empty() || symbols_[0].next != PairTable::kNone) return PairTable::kNone;
    return symbols_[0].id;
  }

 private:
  void update_pair(const PairTable& table, std::uint32_t left);
  void queue(std::uint32_t left);

  std::vector<Symbol> symbols_;
  std::vector<std::uint64_t> heap_;  // rank << 32 | index of the left symbol, smallest on top
};

}  // namespace herd
