// A step's batch as its kernels see it: plain structs shared by host and device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/batch.h"

namespace herd::cuda {

/// Keys are visited in tiles of 64; splits of 128 begin anew at fixed absolute positions and are
/// folded together in ascending order, whoever computed them.
inline constexpr int kTileKeys = 64;
inline constexpr int kSplitKeys = 128;
/// Attention packs (row, head of the group) pairs of one sequence and kv head as matrix rows.
inline constexpr int kWarpRows = 16;      // of one warp
inline constexpr int kPrefillRows = 128;  // of one block that shares keys among 8 warps
inline constexpr int kGroupedPages = 32;  // pages hold a multiple of this many positions

/// Work of one warp (few rows: splits [first, end) of them) or block (all splits).
struct AttentionItem {
  BatchSequence sequence;   // a copy: one load less to wait for
  std::int32_t first_pair;  // pairs [first_pair, first_pair + 16 or 128)
  std::int32_t first_split, end_split;
  std::int32_t n_splits;  // of these pairs in all
  std::int32_t tile;      // counter of the splits done
  std::int32_t slot;      // first of n_splits partial results, or -1: this item does all splits
  std::int32_t unused[2];
};
static_assert(sizeof(AttentionItem) == 48);

struct StepCounts {
  std::int32_t few_items;  // AttentionItems for warps
  std::int32_t unused[3];
};

/// Device pointers that stay the same from step to step.
struct StepView {
  const StepCounts* counts;
  const std::int32_t* ids;
  const std::int32_t* positions;
  const std::int32_t* slots;  // -1: a row that is not of the batch
  const std::int32_t* logit_rows;
  const SamplingRow* sampling;
  const AttentionItem* few;   // for warps
  const AttentionItem* many;  // for blocks
  const std::int32_t* block_table;
  std::int32_t* sampled;  // [logits] of the last step that sampled
};

}  // namespace herd::cuda
