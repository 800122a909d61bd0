// The forward pass of a Llama-family model over a ragged batch: straight down, op by op.
#include <fmt/format.h>

#include <cmath>

#include "model/loader.h"

namespace herd {

void Model::embed(const StepRows& step) {
  backend_->embed({weights_.embedding, work_.x, step.rows});
}

void Model::process_layer(std::int32_t layer, const StepRows& step) {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const Workspace& s = work_;
  const std::int32_t rows = step.rows;
  Backend& device = *backend_;

  // x += product, by the product or by the norm after it.
  const auto add_product = [&](const void* in, MatrixId weights) {
    if (s.delta == nullptr)
      device.matmul({in, rows, 1, {weights}, {s.x}, Epilogue::add});
    else
      device.matmul({in, rows, 1, {weights}, {s.delta}});
  };
  const auto norm = [&](const float* weight, const float* add) {
    device.rms_norm({s.x, weight, s.normed, rows, c.hidden, c.rms_epsilon, /*of_logit_rows=*/false,
                     /*f32_out=*/false, add, /*for_next_matmul=*/true});
  };

  // Attention: x += Wo attend(rope(Wq n), rope(Wk n), Wv n), n = norm(x)
  norm(w.attention_norm, layer > 0 ? s.delta : nullptr);
  device.matmul({s.normed, rows, 3, {w.q, w.k, w.v}, {s.q, s.k, s.v}});
  device.rope_store({s.q, s.k, s.v, s.rotated, weights_.rope_table, rows, c.heads, c.kv_heads,
                     c.head_size, c.rope_size, layer, /*for_next_attention=*/true});
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_size));
  device.attention({s.rotated, s.attended, layer, c.heads, scale});
  add_product(s.attended, w.attention_output);

  // Feed-forward: x += Wdown (silu(Wgate n) * Wup n), n = norm(x)
  norm(w.ffn_norm, s.delta);
  device.matmul({s.normed, rows, 2, {w.gate, w.up}, {s.gate, s.up}, Epilogue::swiglu});
  add_product(s.gate, w.down);
}

const float* Model::output(const StepRows& step) {
  const ModelConfig& c = config_;
  const std::int32_t rows = step.logits;
  if (rows == 0) return work_.logits;  // a chunk of a prompt: nobody asked
  backend_->rms_norm({work_.x, weights_.output_norm, work_.gathered, rows, c.hidden, c.rms_epsilon,
                      /*of_logit_rows=*/true, /*f32_out=*/false, work_.delta,
                      /*for_next_matmul=*/true});
  backend_->matmul({work_.gathered, rows, 1, {weights_.output}, {work_.logits}});
  return work_.logits;
}

const float* Model::forward(const Batch& batch) {
  const StepRows step = backend_->begin_step(batch);
  if (!step.recorded) {
    embed(step);
    for (std::int32_t layer = 0; layer < config_.layers; ++layer) process_layer(layer, step);
    output(step);
    if (!batch.sampling.empty()) backend_->sample({work_.logits, step.logits, config_.vocab});
  }
  backend_->end_step();
  return work_.logits;
}

namespace {

/// Values per row of one kind of buffer, f32 or activations.
struct Widths {
  std::int64_t floats = 0, activations = 0;
};
struct WorkspaceWidths {
  Widths row, logit;
};
/// Of Workspace's buffers. Where activations are f32, rotated is q.
WorkspaceWidths workspace_widths(const ModelConfig& c, const Backend& backend) {
  const std::int64_t q = std::int64_t{c.heads} * c.head_size,
                     kv = std::int64_t{c.kv_heads} * c.head_size;
  const std::int64_t rotated = backend.activation_bytes() == 4 ? 0 : q;
  const std::int64_t delta = backend.norm_adds() ? c.hidden : 0;
  return {
      {c.hidden + delta + q + 2 * kv, c.hidden + q + 2 * std::int64_t{c.feed_forward} + rotated},
      {c.vocab, c.hidden}};
}
std::int64_t workspace_bytes(const ModelConfig& c, const Backend& backend,
                             const ModelLimits& limits) {
  const auto [row, logit] = workspace_widths(c, backend);
  const auto bytes = [&](const Widths& w) {
    return 4 * w.floats + backend.activation_bytes() * w.activations;
  };
  return bytes(row) * limits.max_rows + bytes(logit) * limits.max_logits;
}

std::int32_t widest_input(const ModelConfig& c) {
  return std::max({c.hidden, c.heads * c.head_size, c.feed_forward});
}

KvLayout kv_layout(const ModelConfig& c, const ModelLimits& limits) {
  return {c.layers, c.kv_heads, c.head_size, limits.page_size, limits.kv_pages, limits.kv_type};
}

StepLimits step_limits(const ModelConfig& c, const ModelLimits& limits) {
  return {limits.max_rows, widest_input(c), limits.context, limits.max_logits, limits.max_sequences,
          c.vocab,         c.heads,         c.kv_heads,     c.head_size};
}

Workspace take_workspace(Loader& loader, const ModelConfig& c, const ModelLimits& limits) {
  const std::int64_t rows = limits.max_rows, logits = limits.max_logits;
  const std::int64_t q = std::int64_t{c.heads} * c.head_size,
                     kv = std::int64_t{c.kv_heads} * c.head_size;
  Workspace work = {};
  work.x = loader.buffer(rows * c.hidden);
  if (loader.norms_add()) work.delta = loader.buffer(rows * c.hidden);
  work.normed = loader.activations(rows * c.hidden);
  work.q = loader.buffer(rows * q);
  work.k = loader.buffer(rows * kv);
  work.v = loader.buffer(rows * kv);
  work.rotated = loader.activations_are_floats() ? work.q : loader.activations(rows * q);
  work.attended = loader.activations(rows * q);
  work.gate = loader.activations(rows * c.feed_forward);
  work.up = loader.activations(rows * c.feed_forward);
  work.gathered = loader.activations(logits * c.hidden);
  work.logits = loader.buffer(logits * c.vocab);
  return work;
}

ModelWeights load_weights(Loader& loader, const ModelConfig& c, std::int32_t context) {
  ModelWeights w = {};
  w.rope_table = loader.rope_table(c, context);
  w.embedding =
      loader.matrix("token_embd.weight", c.tied_output ? MatrixUse::both : MatrixUse::lookup);
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
    plan.weights += spec.matrix
                        ? backend.matrix_bytes(tensor->type, spec.rows, spec.columns, spec.use)
                        : spec.columns * 4;
  }
  plan.vocab = config->vocab;
  KvLayout kv = kv_layout(*config, limits);
  plan.kv = backend.kv_bytes(kv);
  kv.pages = 1;
  plan.kv_per_token = backend.kv_bytes(kv) / kv.page_size;
  plan.activations = workspace_bytes(*config, backend, limits) +
                     std::int64_t{4} * limits.context * config->rope_size;
  plan.scratch = backend.scratch_bytes(step_limits(*config, limits));
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
  if (Status s = model->backend_->reserve_scratch(step_limits(*config, limits)); !s.ok())
    return s.error();
  return model;
}

}  // namespace herd
