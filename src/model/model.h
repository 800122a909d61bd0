// A Llama-family model: its configuration, the table of its tensors, its weights on a backend, and
// the forward pass.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "core/batch.h"
#include "gguf/gguf.h"

namespace herd {

/// Hyper-parameters, each checked once against the table of limits in config.cc.
struct ModelConfig {
  std::string architecture;  // "llama"
  std::int32_t layers = 0;
  std::int32_t hidden = 0;  // embedding length
  std::int32_t feed_forward = 0;
  std::int32_t heads = 0;
  std::int32_t kv_heads = 0;   // divides heads
  std::int32_t head_size = 0;  // key_length, else hidden / heads
  std::int32_t rope_size = 0;  // rotated part of a head, even, <= head_size
  std::int32_t vocab = 0;
  std::int32_t context = 0;  // as trained
  float rms_epsilon = 0;
  float rope_base = 10000.0f;
  float rope_scale = 1.0f;   // linear scaling: positions are divided by it
  bool tied_output = false;  // no output.weight: token_embd.weight serves
};

/// Reads and checks `file`'s hyper-parameters. Errors name the key, the value and its range;
/// architectures and rope scalings herd does not run are refused by name.
Result<ModelConfig> read_config(const gguf::File& file);

/// One row of the tensor table: the only place that knows tensor names.
struct TensorSpec {
  std::string name;
  std::int64_t rows = 1;
  std::int64_t columns = 0;
  bool optional = false;
  bool matrix = false;  // a weight matrix; otherwise f32 values (F32, F16 or BF16 in the file)
  MatrixUse use = MatrixUse::product;
};
/// All tensors a file of this configuration holds, in the order they are loaded.
std::vector<TensorSpec> tensor_table(const ModelConfig& config);

struct LayerWeights {
  float* attention_norm;      // [hidden]
  MatrixId q, k, v;           // [heads * head_size | kv_heads * head_size][hidden]
  MatrixId attention_output;  // [hidden][heads * head_size]
  float* ffn_norm;            // [hidden]
  MatrixId gate, up;          // [feed_forward][hidden]
  MatrixId down;              // [hidden][feed_forward]
};
struct ModelWeights {
  MatrixId embedding;  // [vocab][hidden]
  std::vector<LayerWeights> layers;
  float* output_norm;  // [hidden]
  MatrixId output;     // [vocab][hidden]; the embedding if tied
  float* rope_table;   // [context][rope_size / 2][cos, sin]
};

/// Activations of one step, taken once for the largest step.
struct Workspace {
  float* x;        // [max_rows][hidden] the residual stream
  float* delta;    // [max_rows][hidden] what the next norm adds to x; null where products add
  void* normed;    // [max_rows][hidden] activations
  float* q;        // [max_rows][heads * head_size]
  float* k;        // [max_rows][kv_heads * head_size]
  float* v;        // [max_rows][kv_heads * head_size]
  void* rotated;   // [max_rows][heads * head_size] activations; q where those are f32
  void* attended;  // [max_rows][heads * head_size] activations
  void* gate;      // [max_rows][feed_forward] activations
  void* up;        // [max_rows][feed_forward] activations
  void* gathered;  // [max_logits][hidden] activations
  float* logits;   // [max_logits][vocab]
};

/// Sizes a model is made for; what `plan` prints and what is then taken, once.
struct ModelLimits {
  std::int32_t context = 0;     // longest sequence, <= config.context
  std::int32_t max_rows = 0;    // rows in one step
  std::int32_t max_logits = 0;  // logit rows in one step
  std::int32_t max_sequences = 0;
  std::int32_t kv_pages = 0;
  std::int32_t page_size = 32;
  KvType kv_type = KvType::f16;
};

/// Memory by term, in bytes, before anything is loaded.
struct MemoryPlan {
  std::int64_t weights = 0;
  std::int64_t kv = 0;
  std::int64_t kv_per_token = 0;
  std::int64_t activations = 0;  // workspace and rope table
  std::int64_t scratch = 0;      // the backend's
  std::int32_t vocab = 0;
  std::int64_t total() const { return weights + kv + activations + scratch; }
};

class Model {
 public:
  /// Checks every tensor against the table, takes all memory, loads all weights.
  static Result<std::unique_ptr<Model>> load(const gguf::File& file,
                                             std::unique_ptr<Backend> backend,
                                             const ModelLimits& limits, const ProgressFn& progress);
  static Result<MemoryPlan> plan(const gguf::File& file, const Backend& backend,
                                 const ModelLimits& limits);

  /// One step. Returns logits [batch.logit_rows.size()][vocab] in backend memory, valid until the
  /// next step. REQUIRES: a batch that meets core/batch.h's invariants, within limits().
  const float* forward(const Batch& batch);

  // The steps of forward(), in order, between the backend's begin_step and end_step.
  void embed(const StepRows& step);                              // ids -> x
  void process_layer(std::int32_t layer, const StepRows& step);  // x -> x
  const float* output(const StepRows& step);                     // x -> logits of logit_rows

  const ModelConfig& config() const { return config_; }
  const ModelLimits& limits() const { return limits_; }
  Backend& backend() { return *backend_; }

 private:
  ModelConfig config_;
  ModelLimits limits_;
  std::unique_ptr<Backend> backend_;
  ModelWeights weights_;
  Workspace work_;
};

}  // namespace herd
