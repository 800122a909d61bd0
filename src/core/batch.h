// One step's work as plain data. Prefill, decode and chunks are the same thing with other numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "herd/types.h"

namespace herd {

/// One sequence's share of a step. Filled by whoever plans the step.
struct BatchSequence {
  std::int32_t first_row = 0;   // its first packed row
  std::int32_t n_rows = 0;      // new tokens in this step, at least 1
  std::int32_t kv_length = 0;   // tokens in the cache after this step: last position + 1
  std::int32_t first_page = 0;  // where its pages start in Batch::block_table
};

/// How a device chooses the id after one logits row. Filled by the planner.
struct SamplingRow {
  float temperature = 0.0f;  // 0: the largest
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  std::int32_t top_k = 0;    // 0: off
  std::uint64_t seed = 0;
  std::int64_t position = 0;  // the draw is a function of (seed, position)
};

/// Rows of all sequences packed one after another, in the order of `sequences`.
/// Invariant: positions of a sequence ascend by one and end at kv_length - 1.
struct Batch {
  std::vector<TokenId> ids;  // [n_rows] the planner: token at each row; see Backend::sampled
  std::vector<std::int32_t> positions;    // [n_rows] the planner: absolute position of each row
  std::vector<std::int32_t> slots;        // [n_rows] the KV room: page * page_size + offset
  std::vector<BatchSequence> sequences;   // [n_sequences]
  std::vector<std::int32_t> block_table;  // the KV room: page ids of each sequence, concatenated
  std::vector<std::int32_t> logit_rows;   // [n_logits] the planner: rows whose logits are wanted
  std::vector<SamplingRow> sampling;      // [n_logits], or empty: the host chooses

  std::int32_t n_rows() const { return static_cast<std::int32_t>(ids.size()); }
  void clear() {
    ids.clear(), positions.clear(), slots.clear(), sequences.clear();
    block_table.clear(), logit_rows.clear(), sampling.clear();
  }
};

}  // namespace herd
