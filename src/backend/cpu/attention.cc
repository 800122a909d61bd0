// Sharing attention out: one task is a tile of queries of one sequence that read the same kv head.
#include "backend/cpu/cpu.h"
#include "backend/cpu/for_each.h"

namespace herd::cpu {
namespace {

/// How the queries of one kv head are cut into tiles: `rows` rows times `heads` query heads.
struct TileShape {
  std::int32_t rows, heads;
};
TileShape tile_shape(std::int32_t group, std::int32_t most) {
  const std::int32_t heads = std::min(group, most);
  return {std::max(1, most / heads), heads};
}
std::int32_t pieces(std::int32_t n, std::int32_t each) {
  return (n + each - 1) / each;
}

}  // namespace

void CpuBackend::attention(const AttentionArgs& args) {
  const Batch& batch = *batch_;
  const std::int32_t group = args.heads / kv_.kv_heads;
  const TileShape shape = tile_shape(group, table_.tile_rows);
  const std::int32_t head_pieces = pieces(group, shape.heads);
  const std::int32_t per_row_tile = kv_.kv_heads * head_pieces;

  std::int32_t tasks = 0;
  std::int64_t keys = 0;
  for (const BatchSequence& s : batch.sequences) {
    tasks += pieces(s.n_rows, shape.rows) * per_row_tile;
    keys += s.kv_length;
  }
  attended_bytes_ = keys * kv_.kv_heads * (kv_.key_bytes() + kv_.value_bytes()) / pool_.threads();
  pool_.run(
      tasks, [this, args, &batch, shape, group, head_pieces, per_row_tile](int task, int thread) {
        std::size_t i = 0;  // which sequence: few of them, so a walk is enough
        std::int32_t left = task;
        for (; left >= pieces(batch.sequences[i].n_rows, shape.rows) * per_row_tile; ++i)
          left -= pieces(batch.sequences[i].n_rows, shape.rows) * per_row_tile;
        const BatchSequence& s = batch.sequences[i];
        // Later rows see more keys: start with them, so that no long task is left for the end.
        const std::int32_t row_tile = pieces(s.n_rows, shape.rows) - 1 - left / per_row_tile;
        const std::int32_t kv_head = left % per_row_tile / head_pieces;
        const std::int32_t first_row = row_tile * shape.rows;
        const std::int32_t first_head = left % head_pieces * shape.heads;
        attention_tile(args, s, kv_head, first_row, std::min(shape.rows, s.n_rows - first_row),
                       first_head, std::min(shape.heads, group - first_head), thread);
      });
  kv_ahead_.attention_done(args.layer, batch);
}

void CpuBackend::attention_tile(const AttentionArgs& args, const BatchSequence& sequence,
                                std::int32_t kv_head, std::int32_t first_row, std::int32_t n_rows,
                                std::int32_t first_head, std::int32_t n_heads, int thread) {
  const std::int32_t group = args.heads / kv_.kv_heads, size = kv_.head_size;
  const std::int64_t key_bytes = kv_.key_bytes() * kv_.page_size;
  const std::int64_t value_bytes = kv_.value_bytes() * kv_.page_size;
  const std::int64_t layer_heads = std::int64_t{args.layer} * kv_.pages * kv_.kv_heads + kv_head;
  float* q =
      thread_scratch_[static_cast<std::size_t>(thread)].get() + scratch_.unpacked + scratch_.totals;
  std::int32_t n_keys[kMaxTileRows];

  AttentionTileArgs tile = {};
  tile.q = q;
  tile.queries = n_rows * n_heads;
  for (std::int32_t i = 0; i < tile.queries; ++i) {
    const std::int32_t row = sequence.first_row + first_row + i / n_heads;
    const std::int32_t head = kv_head * group + first_head + i % n_heads;
    const std::int64_t at = (std::int64_t{row} * args.heads + head) * size;
    for (std::int32_t d = 0; d < size; ++d)
      q[d * tile.queries + i] = static_cast<const float*>(args.q)[at + d];
    tile.out[i] = static_cast<float*>(args.out) + at;
    n_keys[i] = batch_->positions[static_cast<std::size_t>(row)] + 1;
    tile.max_keys = std::max(tile.max_keys, n_keys[i]);
  }
  tile.n_keys = n_keys;
  tile.pages = batch_->block_table.data() + sequence.first_page;
  tile.page_size = kv_.page_size;
  tile.keys = keys_ + layer_heads * key_bytes;
  tile.values = values_ + layer_heads * value_bytes;
  tile.key_page_bytes = kv_.kv_heads * key_bytes;
  tile.value_page_bytes = kv_.kv_heads * value_bytes;
  tile.head_size = size;
  tile.value_stride = kv_.value_stride();
  tile.type = kv_.type;
  tile.scale = args.scale;
  tile.scores = q + scratch_.query;
  tile.score_stride = scratch_.scores / table_.tile_rows;
  table_.attention[tile.queries - 1](tile);
}

}  // namespace herd::cpu
