// Sharing attention out: one task is a tile of queries of one sequence that read the same kv head.
#include <iterator>
#include <thread>
#include <utility>

#include "backend/cpu/cpu.h"

namespace herd::cpu {
namespace {

constexpr std::int32_t kFirstPages = 2;  // of keys, asked for before a task begins

std::int32_t pieces(std::int32_t n, std::int32_t each) {
  return (n + each - 1) / each;
}

}  // namespace

/// A rotation whose parts belong to one task of attention each: a task has all the heads that read
/// a kv head, and a sequence has one row.
bool CpuBackend::left_to_attention(const RopeStoreArgs& args) const {
  return args.for_next_attention && args.q != nullptr && args.k != nullptr && args.v != nullptr &&
         args.q_out == args.q && args.heads / kv_.kv_heads <= table_.tile_rows &&
         std::ssize(batch_->sequences) == batch_->n_rows();
}

void CpuBackend::attention(const AttentionArgs& args) {
  const Batch& batch = *batch_;
  const std::int32_t group = args.heads / kv_.kv_heads;
  const std::int32_t tile_heads = std::min(group, table_.tile_rows);
  const AttentionWork work = {.args = args,
                              .rope = std::exchange(rope_, {}),
                              .group = group,
                              .tile_rows = table_.tile_rows / tile_heads,
                              .tile_heads = tile_heads,
                              .head_pieces = pieces(group, tile_heads)};

  std::int32_t tasks = 0;
  std::int64_t keys = 0;
  for (const BatchSequence& s : batch.sequences) {
    tasks += tasks_of(work, s);
    keys += s.kv_length;
  }
  attended_bytes_ = keys * kv_.kv_heads * (kv_.key_bytes() + kv_.value_bytes()) / pool_.threads();
  const TaskHalves halves(tasks, batch.n_rows() == 1 ? pool_.threads() : 1);
  for (std::int32_t i = 0; i < halves.split; ++i)
    half_tasks_[static_cast<std::size_t>(i)].state.store(HalfTask::kFree,
                                                         std::memory_order_relaxed);
  pool_.run(halves.units(), [this, work, halves](int unit, int thread) {
    attention_unit(work, halves.at(unit), thread);
  });
  kv_ahead_.attention_done(args.layer, batch);
}

std::int32_t CpuBackend::tasks_of(const AttentionWork& work, const BatchSequence& sequence) const {
  return pieces(sequence.n_rows, work.tile_rows) * kv_.kv_heads * work.head_pieces;
}

CpuBackend::AttentionTask CpuBackend::attention_task(const AttentionWork& work,
                                                     std::int32_t task) const {
  const BatchSequence* s = batch_->sequences.data();  // few of them, so a walk is enough
  for (; task >= tasks_of(work, *s); ++s) task -= tasks_of(work, *s);
  const std::int32_t per_row_tile = kv_.kv_heads * work.head_pieces;
  // Later rows see more keys: start with them, so that no long task is left for the end.
  const std::int32_t first_row =
      (pieces(s->n_rows, work.tile_rows) - 1 - task / per_row_tile) * work.tile_rows;
  const std::int32_t first_head = task % work.head_pieces * work.tile_heads;
  return {.sequence = s,
          .kv_head = task % per_row_tile / work.head_pieces,
          .first_row = first_row,
          .rows = std::min(work.tile_rows, s->n_rows - first_row),
          .first_head = first_head,
          .heads = std::min(work.tile_heads, work.group - first_head)};
}

/// What a task rotates and stores, and where to: other threads wrote some of it, and read what
/// stood there before.
void CpuBackend::ask_for_heads(const AttentionWork& work, const AttentionTask& task) const {
  const std::int64_t row = task.sequence->first_row, size = kv_.head_size, bytes = 4 * size;
  const std::int64_t kv_head = row * kv_.kv_heads + task.kv_head;
  const std::int64_t head = row * work.args.heads + task.kv_head * work.group + task.first_head;
  ask_to_write(work.rope.q + head * size, task.heads * bytes);
  ask_to_write(work.rope.k + kv_head * size, bytes);
  ask_for<CacheLevel::first>(work.rope.v + kv_head * size, bytes);
  ask_to_write(static_cast<float*>(work.args.out) + head * size, task.heads * bytes);
  const std::int32_t page = batch_->slots[static_cast<std::size_t>(row)] / kv_.page_size;
  ask_to_write(kv_.key_page(work.args.layer, page, task.kv_head), kv_.key_page_bytes());
}

/// A whole task, or half of one. Whoever comes to the values first makes the scores as well; else
/// they are nearly done.
void CpuBackend::attention_unit(const AttentionWork& work, const TaskHalves::Unit& unit,
                                int thread) {
  AttentionTask task = attention_task(work, unit.task);
  if (unit.part == AttentionPart::whole) return attention_tile(work, task, thread);
  task.half = &half_tasks_[static_cast<std::size_t>(unit.half)];
  int free = HalfTask::kFree;
  if (task.half->state.compare_exchange_strong(free, HalfTask::kTaken, std::memory_order_acq_rel)) {
    task.part = AttentionPart::scores;
    attention_tile(work, task, thread);
    task.half->state.store(HalfTask::kScored, std::memory_order_release);
  }
  if (unit.part == AttentionPart::scores) return;
  while (task.half->state.load(std::memory_order_acquire) != HalfTask::kScored)
    std::this_thread::yield();
  task.part = AttentionPart::values;
  attention_tile(work, task, thread);
}

void CpuBackend::attention_tile(const AttentionWork& work, const AttentionTask& task, int thread) {
  const AttentionArgs& args = work.args;
  const std::int32_t size = kv_.head_size;
  const std::int32_t head0 = task.kv_head * work.group + task.first_head;
  const std::int32_t* pages = batch_->block_table.data() + task.sequence->first_page;
  const bool scores = task.part != AttentionPart::values;
  if (scores && work.rope.q != nullptr) ask_for_heads(work, task);
  // The kernel asks for its pages one or two ahead; nobody has asked for the first ones.
  if (task.sequence->n_rows == 1) {
    const std::int32_t n = std::min(kFirstPages, pieces(task.sequence->kv_length, kv_.page_size));
    for (std::int32_t i = 0; i < n; ++i)
      ask_for<CacheLevel::second>(scores ? kv_.key_page(args.layer, pages[i], task.kv_head)
                                         : kv_.value_page(args.layer, pages[i], task.kv_head),
                                  scores ? kv_.key_page_bytes() : kv_.value_page_bytes());
  }
  if (scores && work.rope.q != nullptr) {
    const std::int64_t row = task.sequence->first_row;
    rotate_heads(work.rope.q + (row * args.heads + head0) * size, task.heads, row, work.rope);
    rotate_heads(work.rope.k + (row * kv_.kv_heads + task.kv_head) * size, 1, row, work.rope);
    store_head(row, task.kv_head, work.rope);
  }
  float* q =
      thread_scratch_[static_cast<std::size_t>(thread)].get() + scratch_.unpacked + scratch_.totals;
  std::int32_t n_keys[kMaxTileRows];
  float sums[kMaxTileRows];

  AttentionTileArgs tile = {};
  tile.part = task.part;
  tile.q = q;
  tile.queries = task.rows * task.heads;
  for (std::int32_t i = 0; i < tile.queries; ++i) {
    const std::int32_t row = task.sequence->first_row + task.first_row + i / task.heads;
    const std::int32_t head = head0 + i % task.heads;
    const std::int64_t at = (std::int64_t{row} * args.heads + head) * size;
    for (std::int32_t d = 0; scores && d < size; ++d)
      q[d * tile.queries + i] = static_cast<const float*>(args.q)[at + d];
    tile.out[i] = static_cast<float*>(args.out) + at;
    n_keys[i] = batch_->positions[static_cast<std::size_t>(row)] + 1;
    tile.max_keys = std::max(tile.max_keys, n_keys[i]);
  }
  tile.n_keys = n_keys;
  tile.pages = pages;
  tile.page_size = kv_.page_size;
  tile.keys = kv_.key_page(args.layer, 0, task.kv_head);
  tile.values = kv_.value_page(args.layer, 0, task.kv_head);
  tile.key_page_bytes = kv_.key_page_bytes();
  tile.value_page_bytes = kv_.value_page_bytes();
  tile.head_size = size;
  tile.value_stride = kv_.value_stride();
  tile.type = kv_.type;
  tile.scale = args.scale;
  tile.scores = task.half != nullptr ? task.half->scores : q + scratch_.query;
  tile.sums = task.half != nullptr ? task.half->sums : sums;
  tile.score_stride = scratch_.scores / table_.tile_rows;
  table_.attention[tile.queries - 1](tile);
}

}  // namespace herd::cpu
