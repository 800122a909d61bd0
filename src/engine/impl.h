// What a LlamaModel holds: a loaded model, its tokeniser, and the sequences of its batch.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/batch.h"
#include "engine/answer_formats.h"
#include "herd/llama.h"
#include "kv/pool.h"
#include "model/model.h"
#include "token/tokenizer.h"

namespace herd {

/// Which rows of a sequence's new tokens want logits.
enum class WantLogits { none, last, all };

struct LlamaModel::Impl {
  std::unique_ptr<Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;  // null when the file's cannot be used:
  Error tokenizer_error;                       // then this says why
  std::string name;
  std::int64_t weight_bytes = 0;
  PagePool pool{0, 32};
  std::vector<BlockTable> tables;        // one per place in the batch
  std::int32_t active = 0;               // places in use: batch_size()
  Batch batch;                           // the step being put together
  std::vector<float> logits;             // [max_logits][vocab] of the last step, on the host
  const float* device_logits = nullptr;  // of the last step
  std::uint64_t steps = 0, rows = 0;
  mutable AnswerFormats formats;  // thread-safe

  // ---- one step: start_step, add ..., run_step. Rows and pages must fit; callers check ----
  void start_step() { batch.clear(); }
  /// Appends new tokens of the sequence at `place`. Error: resource_exhausted, nothing appended.
  Status add(std::int32_t place, std::span<const TokenId> ids, WantLogits want);
  /// Runs the step; logits of its logit rows, in order, valid until the next.
  Result<std::span<const float>> run_step();
  /// The first half of run_step, also for steps put together elsewhere: nothing is waited for.
  void enqueue(const Batch& step);
  /// The second: `count` rows of the last step's logits, from the `first` on.
  Result<std::span<const float>> read_logits(std::size_t first, std::size_t count);
  std::int32_t rows_left() const { return model->limits().max_rows - batch.n_rows(); }
  std::int32_t logits_left() const {
    return model->limits().max_logits - static_cast<std::int32_t>(batch.logit_rows.size());
  }

  Status check_ids(std::size_t sequence, std::span<const TokenId> ids) const;
  std::int32_t vocab() const { return model->config().vocab; }
  std::int32_t context() const { return model->limits().context; }
  void clear();
};

}  // namespace herd
