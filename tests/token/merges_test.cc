// The heap against the definition: again and again the best pair, the leftmost of equals.
#include "token/merges.h"

#include <gtest/gtest.h>

#include <random>

namespace herd {
namespace {

using Ids = std::vector<std::uint32_t>;

Ids merge_plainly(Ids ids, const PairTable& table) {
  for (;;) {
    PairTable::Merge best;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = table.find(ids[i], ids[i + 1]);
      if (merge.rank < best.rank) {
        best = merge;
        at = i;
      }
    }
    if (best.rank == PairTable::kNone) return ids;
    ids[at] = best.symbol;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

Ids merge_by_heap(const Ids& ids, const PairTable& table) {
  MergeBuffer buffer;
  for (std::size_t i = 0; i < ids.size(); ++i) buffer.push(ids[i], i);
  buffer.run(table);
  Ids out;
  std::size_t expected_begin = 0;
  buffer.for_each(ids.size(), [&](std::uint32_t id, std::size_t begin, std::size_t end) {
    EXPECT_EQ(begin, expected_begin);
    EXPECT_GT(end, begin);
    expected_begin = end;
    out.push_back(id);
  });
  EXPECT_EQ(expected_begin, ids.size());
  return out;
}

TEST(Merges, EqualTheDefinitionOnRandomTables) {
  for (std::uint32_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    const std::uint32_t letters = 2 + below(4);
    PairTable table;
    // Few ranks, so that ties are common; a symbol may be reached in several ways.
    for (std::uint32_t i = 0; i < 40; ++i)
      table.insert(below(letters + i), below(letters + i), {below(8), letters + i});
    Ids ids(random() % 60);
    for (auto& id : ids) {
      id = below(20) == 0 ? PairTable::kNone : below(letters);
    }
    ASSERT_EQ(merge_by_heap(ids, table), merge_plainly(ids, table));
  }
}

TEST(Merges, UnknownSymbolsNeverMerge) {
  const PairTable table;
  EXPECT_EQ(table.find(PairTable::kNone, PairTable::kNone).rank, PairTable::kNone);
  EXPECT_EQ(table.find(1, 2).rank, PairTable::kNone);
}

TEST(Merges, TheFirstRankOfAPairStays) {
  PairTable table;
  table.insert(1, 2, {5, 10});
  table.insert(1, 2, {3, 11});
  EXPECT_EQ(table.find(1, 2).rank, 5u);
  EXPECT_EQ(table.find(1, 2).symbol, 10u);
}

}  // namespace
}  // namespace herd
