// A model whose next token is a digest of what really lies in its KV slots: a wrong page, slot,
// position or a stale cell gives another token than the same tokens alone.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/rng.h"
#include "sched/scheduler.h"

namespace herd::test {

/// One layer's worth of memory: what a row wrote, from its token and all it could see.
inline std::uint64_t digest(std::uint64_t seen, TokenId token, std::int32_t position) {
  return counter_bits(seen ^ static_cast<std::uint64_t>(position),
                      static_cast<std::uint64_t>(token));
}
inline std::uint64_t look(std::uint64_t seen, std::uint64_t cell) {
  return counter_bits(seen, cell);
}

/// Every answer token is below this; few, so that answers and prompts often repeat one another.
constexpr std::uint64_t kFakeVocab = 3;

/// The answer of `prompt` alone, without pages, steps or company.
inline std::vector<TokenId> answer_alone(const std::vector<TokenId>& prompt, std::int32_t count) {
  std::vector<TokenId> ids = prompt, answer;
  std::vector<std::uint64_t> cells;
  while (static_cast<std::int32_t>(answer.size()) < count) {
    while (cells.size() < ids.size()) {
      std::uint64_t seen = 0;
      for (const std::uint64_t cell : cells) seen = look(seen, cell);
      const auto position = static_cast<std::int32_t>(cells.size());
      cells.push_back(digest(seen, ids[cells.size()], position));
    }
    answer.push_back(static_cast<TokenId>(cells.back() % kFakeVocab));
    ids.push_back(answer.back());
  }
  return answer;
}

class FakeModel {
 public:
  struct Cell {
    std::uint64_t digest = 0;
    bool poisoned = false;
    CachePartition partition = 0;
  };
  struct Logits {
    TokenId token = -1;
    bool finite = true;
  };

  explicit FakeModel(const sched::Limits& limits)
      : page_size_(limits.page_size),
        cells_(static_cast<std::size_t>(limits.kv_pages * limits.page_size)) {}

  /// Runs a step; the logits of its logit rows. `partitions`: of each share. Rows of share
  /// `poisoned` write something that is not finite.
  std::vector<Logits> run(const Batch& batch, const std::vector<CachePartition>& partitions,
                          std::ptrdiff_t poisoned) {
    std::vector<Logits> logits;
    for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
      const BatchSequence& q = batch.sequences[s];
      const auto* pages = batch.block_table.data() + q.first_page;
      for (std::int32_t i = 0; i < q.n_rows; ++i) {
        const std::int32_t row = q.first_row + i, position = batch.positions[at(row)];
        const Cell cell = compute(batch, row, pages, position, partitions[s]);
        Cell& slot = cells_[at(batch.slots[at(row)])];
        slot = cell;
        if (static_cast<std::ptrdiff_t>(s) == poisoned) slot.poisoned = true;
        if (std::ranges::binary_search(batch.logit_rows, row))
          logits.push_back({static_cast<TokenId>(slot.digest % kFakeVocab), !slot.poisoned});
      }
    }
    chosen_ = logits;
    return logits;
  }

 private:
  static std::size_t at(std::int32_t i) { return static_cast<std::size_t>(i); }

  Cell compute(const Batch& batch, std::int32_t row, const std::int32_t* pages,
               std::int32_t position, CachePartition partition) const {
    TokenId token = batch.ids[at(row)];
    if (token < 0) token = chosen_.at(at(-1 - token)).token;  // what the step before chose
    Cell out = {0, false, partition};
    for (std::int32_t j = 0; j < position; ++j) {
      const Cell& cell = cells_[at(pages[j / page_size_] * page_size_ + j % page_size_)];
      out.digest = look(out.digest, cell.digest);
      out.poisoned = out.poisoned || cell.poisoned;
      EXPECT_EQ(cell.partition, partition) << "another partition's page was read";
    }
    out.digest = digest(out.digest, token, position);
    return out;
  }

  std::int32_t page_size_;
  std::vector<Cell> cells_;
  std::vector<Logits> chosen_;
};

}  // namespace herd::test
