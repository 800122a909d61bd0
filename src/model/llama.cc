// The forward pass of a Llama-family model over a ragged batch: straight down, op by op.
#include <fmt/format.h>

#include <cmath>

#include "model/loader.h"

namespace herd {

void Model::embed(const Batch& batch) {
  backend_->embed({.table = weights_.embedding, .ids = batch.ids, .out = work_.x});
}

void Model::process_layer(std::int32_t layer, const Batch& batch) {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const Workspace& s = work_;
  const std::int32_t rows = batch.n_rows();
  Backend& device = *backend_;

  // Attention: x += Wo attend(rope(Wq n), rope(Wk n), Wv n), n = norm(x)
  device.rms_norm({s.x, w.attention_norm, s.normed, rows, c.hidden, c.rms_epsilon});
  device.matmul({s.normed, rows, 3, {w.q, w.k, w.v}, {s.q, s.k, s.v}, false});
  device.rope({s.q, batch.positions, weights_.rope_table, c.heads, c.head_size, c.rope_size});
  device.rope({s.k, batch.positions, weights_.rope_table, c.kv_heads, c.head_size, c.rope_size});
  device.kv_store({s.k, s.v, batch.slots, layer});
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_size));
  device.attention({s.q, s.attended, &batch, layer, c.heads, scale});
  device.matmul({s.attended, rows, 1, {w.attention_output}, {s.x}, true});

  // Feed-forward: x += Wdown (silu(Wgate n) * Wup n), n = norm(x)
  device.rms_norm({s.x, w.ffn_norm, s.normed, rows, c.hidden, c.rms_epsilon});
  device.matmul({s.normed, rows, 2, {w.gate, w.up}, {s.gate, s.up}, false});
  device.swiglu({s.gate, s.up, s.gate, std::int64_t{rows} * c.feed_forward});
  device.matmul({s.gate, rows, 1, {w.down}, {s.x}, true});
}

const float* Model::output(const Batch& batch) {
  const ModelConfig& c = config_;
  const std::int32_t rows = static_cast<std::int32_t>(batch.logit_rows.size());
  if (rows == 0) return work_.logits;  // a chunk of a prompt: nobody asked
  backend_->gather_rows({work_.x, batch.logit_rows, work_.gathered, c.hidden});
  backend_->rms_norm(
      {work_.gathered, weights_.output_norm, work_.gathered, rows, c.hidden, c.rms_epsilon});
  backend_->matmul({work_.gathered, rows, 1, {weights_.output}, {work_.logits}, false});
  return work_.logits;
}

const float* Model::forward(const Batch& batch) {
  embed(batch);
  for (std::int32_t layer = 0; layer < config_.layers; ++layer) process_layer(layer, batch);
  return output(batch);
}

namespace {

/// Floats per row of each activation, in Workspace's order.
std::int64_t activation_floats(const ModelConfig& c, const ModelLimits& limits) {
  const std::int64_t q = std::int64_t{c.heads} * c.head_size,
                     kv = std::int64_t{c.kv_heads} * c.head_size;
  const std::int64_t per_row =
      2 * std::int64_t{c.hidden} + 2 * q + 2 * kv + 2 * std::int64_t{c.feed_forward};
  const std::int64_t per_logit = std::int64_t{c.hidden} + c.vocab;
  return per_row * limits.max_rows + per_logit * limits.max_logits;
}

std::int32_t widest_input(const ModelConfig& c) {
  return std::max({c.hidden, c.heads * c.head_size, c.feed_forward});
}

KvLayout kv_layout(const ModelConfig& c, const ModelLimits& limits) {
  return {c.layers, c.kv_heads, c.head_size, limits.page_size, limits.kv_pages, limits.kv_type};
}

Workspace take_workspace(Loader& loader, const ModelConfig& c, const ModelLimits& limits) {
  const std::int64_t rows = limits.max_rows, logits = limits.max_logits;
  const std::int64_t q = std::int64_t{c.heads} * c.head_size,
                     kv = std::int64_t{c.kv_heads} * c.head_size;
  Workspace work = {};
  work.x = loader.buffer(rows * c.hidden);
  work.normed = loader.buffer(rows * c.hidden);
  work.q = loader.buffer(rows * q);
  work.k = loader.buffer(rows * kv);
  work.v = loader.buffer(rows * kv);
  work.attended = loader.buffer(rows * q);
  work.gate = loader.buffer(rows * c.feed_forward);
  work.up = loader.buffer(rows * c.feed_forward);
  work.gathered = loader.buffer(logits * c.hidden);
  work.logits = loader.buffer(logits * c.vocab);
  return work;
}

ModelWeights load_weights(Loader& loader, const ModelConfig& c, std::int32_t context) {
  ModelWeights w = {};
  w.rope_table = loader.rope_table(c, context);
  w.embedding = loader.matrix("token_embd.weight");
  for (std::int32_t i = 0; i < c.layers; ++i) {
    const std::string block = fmt::format("blk.{}.", i);
    LayerWeights l = {};
    l.attention_norm = loader.vector(block + "attn_norm.weight");
    l.q = loader.matrix(block + "attn_q.weight");
    l.k = loader.matrix(block + "attn_k.weight");
    l.v = loader.matrix(block + "attn_v.weight");
    l.attention_output = loader.matrix(block + "attn_output.weight");
    l.ffn_norm = loader.vector(block + "ffn_norm.weight");
    l.gate = loader.matrix(block + "ffn_gate.weight");
    l.up = loader.matrix(block + "ffn_up.weight");
    l.down = loader.matrix(block + "ffn_down.weight");
    w.layers.push_back(l);
  }
  w.output_norm = loader.vector("output_norm.weight");
  w.output = c.tied_output ? w.embedding : loader.matrix("output.weight");
  return w;
}

}  // namespace

Result<MemoryPlan> Model::plan(const gguf::File& file, const Backend& backend,
                               const ModelLimits& limits) {
  const auto config = read_config(file);
  if (!config.ok()) return config.error();
  const auto table = tensor_table(*config);
  if (Status status = check_tensors(file, table); !status.ok()) return status.error();
  MemoryPlan plan;
  for (const TensorSpec& spec : table) {
    const gguf::TensorInfo* tensor = file.find_tensor(spec.name);
    if (tensor == nullptr) continue;
    plan.weights += spec.matrix ? backend.matrix_bytes(tensor->type, spec.rows, spec.columns)
                                : spec.columns * 4;
  }
  plan.vocab = config->vocab;
  const KvLayout kv = kv_layout(*config, limits);
  plan.kv = kv.bytes();
  plan.kv_per_token = kv.bytes_per_token();
  plan.activations =
      4 * (activation_floats(*config, limits) + std::int64_t{limits.context} * config->rope_size);
  plan.scratch = backend.scratch_bytes(limits.max_rows, widest_input(*config), limits.context);
  return plan;
}

Result<std::unique_ptr<Model>> Model::load(const gguf::File& file, std::unique_ptr<Backend> backend,
                                           const ModelLimits& limits, const ProgressFn& progress) {
  const auto config = read_config(file);
  if (!config.ok()) return config.error();
  if (Status status = check_tensors(file, tensor_table(*config)); !status.ok())
    return status.error();
  auto model = std::make_unique<Model>();
  model->config_ = *config;
  model->limits_ = limits;
  model->backend_ = std::move(backend);
  Loader loader(file, *model->backend_, progress);
  model->weights_ = load_weights(loader, *config, limits.context);
  model->work_ = take_workspace(loader, *config, limits);
  if (!loader.status().ok()) return loader.status().error();
  if (Status s = model->backend_->create_kv(kv_layout(*config, limits)); !s.ok()) return s.error();
  if (Status s =
          model->backend_->reserve_scratch(limits.max_rows, widest_input(*config), limits.context);
      !s.ok())
    return s.error();
  return model;
}

}  // namespace herd
