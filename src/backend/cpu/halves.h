// How few tasks of two halves each are shared out evenly.
#pragma once

#include <cstdint>

#include "backend/cpu/table.h"

namespace herd::cpu {

/// Attention of one row has a task for each kv head. If half of the threads would get one task more
/// than the others (three tasks for two threads), as many tasks are split: a thread that would have
/// had less begins with the scores of one, and one that would have had more ends with its values.
struct TaskHalves {
  std::int32_t tasks, threads, split = 0;

  TaskHalves(std::int32_t n, std::int32_t n_threads) : tasks(n), threads(n_threads) {
    if (n > n_threads && 2 * (n % n_threads) == n_threads) split = n % n_threads;
  }
  /// What is shared out: if there are halves, as many for each thread.
  std::int32_t units() const { return tasks + split; }

  struct Unit {
    std::int32_t task;
    AttentionPart part;
    std::int32_t half;  // which split task it is of, if not whole
  };
  /// REQUIRES: unit < units().
  Unit at(std::int32_t unit) const {
    if (split == 0) return {unit, AttentionPart::whole, -1};
    const std::int32_t each = units() / threads, wholes = tasks - split;
    const std::int32_t thread = unit / each, i = unit % each;
    const bool more = thread < split;
    if (more && i == each - 1) return {wholes + thread, AttentionPart::values, thread};
    if (!more && i == 0) return {wholes + thread - split, AttentionPart::scores, thread - split};
    return {thread * (each - 1) + (more ? i : i - 1), AttentionPart::whole, -1};
  }
};

}  // namespace herd::cpu
