// The batch kernels by the guide's names, on host memory, for any device. Sizes are checked; an
// error names what was given and what was needed. Numerics: docs/numerics.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "herd/status.h"
#include "herd/types.h"

namespace herd {
class Backend;

/// Runs single ops on one device. Movable; one caller at a time.
class Ops {
 public:
  static Result<Ops> create(DeviceType device, int threads = 0, Isa isa = Isa::automatic);
  Ops(Ops&&) noexcept;
  Ops& operator=(Ops&&) noexcept;
  ~Ops();

  /// out[b][s][:] = x / sqrt(mean(x^2) + epsilon) * weight. x, out: [batch][sequence][dim].
  Status rms_norm_batch_f32(std::span<const float> x, std::span<const float> weight,
                            std::span<float> out, int batch, int sequence, int dim, float epsilon);
  /// Rotates pairs (2i, 2i+1) of each head in place; sequence b starts at start[b].
  /// x: [batch][sequence][heads][head_size].
  Status rope_batch_f32(std::span<float> x, std::span<const std::int32_t> start, int batch,
                        int sequence, int heads, int head_size, float base);
  /// scores [batch][heads][queries][keys] = q . k / sqrt(head_size), -infinity after the query's
  /// own position start[b] + i. q: [batch][queries][heads][head_size], k:
  /// [batch][keys][kv_heads][head_size].
  Status attention_scores_batch_f32(std::span<const float> q, std::span<const float> k,
                                    std::span<float> scores, std::span<const std::int32_t> start,
                                    int batch, int queries, int keys, int heads, int kv_heads,
                                    int head_size);
  /// max [rows] of x [rows][columns].
  Status softmax_max_batch_f32(std::span<const float> x, std::span<float> max, int rows,
                               int columns);
  /// x = exp(x - max), sum [rows] of it.
  Status softmax_exp_sum_f32(std::span<float> x, std::span<const float> max, std::span<float> sum,
                             int rows, int columns);
  /// x /= sum.
  Status softmax_normalize_f32(std::span<float> x, std::span<const float> sum, int rows,
                               int columns);
  /// out [batch][queries][heads][head_size] = weights [batch][heads][queries][keys] times v
  /// [batch][keys][kv_heads][head_size].
  Status apply_attention_batch_f32(std::span<const float> weights, std::span<const float> v,
                                   std::span<float> out, int batch, int queries, int keys,
                                   int heads, int kv_heads, int head_size);
  /// out [rows][outputs] = x [rows][inputs] times the transpose of w, given as GGUF blocks of the
  /// named type ("Q4_K"), [outputs][inputs].
  Status batch_matmul(std::span<const float> x, std::span<const std::byte> w, std::string_view type,
                      std::span<float> out, int rows, int inputs, int outputs);
  Status element_wise_add(std::span<const float> a, std::span<const float> b, std::span<float> out);
  /// out = silu(gate) * up.
  Status swiglu_activation(std::span<const float> gate, std::span<const float> up,
                           std::span<float> out);

 private:
  explicit Ops(std::unique_ptr<Backend> backend);
  std::unique_ptr<Backend> backend_;
};

}  // namespace herd
