// The guide's separate stages, for herd::ops.
#include <algorithm>

#include "backend/metal/metal.h"

namespace herd::metal {
namespace {

args::Elements count_of(std::int64_t n) {
  return {static_cast<std::uint32_t>(n), 0};
}
args::Softmax shape_of(const SoftmaxArgs& a) {
  return {static_cast<std::uint32_t>(a.columns), static_cast<std::uint32_t>(a.rows * a.columns)};
}
template <class Args>
args::Scores shape_of(const Args& a, std::int32_t batch, float scale, std::int64_t count) {
  return {static_cast<std::uint32_t>(batch),
          static_cast<std::uint32_t>(a.queries),
          static_cast<std::uint32_t>(a.keys),
          static_cast<std::uint32_t>(a.heads),
          static_cast<std::uint32_t>(a.kv_heads),
          static_cast<std::uint32_t>(a.head_size),
          scale,
          static_cast<std::uint32_t>(count)};
}

}  // namespace

void MetalBackend::swiglu(const SwigluArgs& a) {
  run_elements("swiglu_activation", {a.gate, a.up, a.out}, count_of(a.n), a.n);
}
void MetalBackend::add(const AddArgs& a) {
  run_elements("element_wise_add", {a.a, a.b, a.out}, count_of(a.n), a.n);
}

void MetalBackend::attention_scores(const AttentionScoresArgs& a) {
  constexpr std::int32_t kMostStarts =
      1024;  // what a kernel can be handed along with its arguments
  const std::int64_t q = std::int64_t{a.queries} * a.heads * a.head_size;
  const std::int64_t k = std::int64_t{a.keys} * a.kv_heads * a.head_size;
  const std::int64_t scores = std::int64_t{a.heads} * a.queries * a.keys;
  for (std::int32_t first = 0; first < a.batch; first += kMostStarts) {
    const std::int32_t batch = std::min(kMostStarts, a.batch - first);
    const std::int64_t n = batch * scores;
    const std::string kernel = "attention_scores_batch_f32";
    const std::uint32_t threads = threads_of(kernel, args::kElementThreads);
    if (n == 0 || !fits(kernel, n)) return;
    const args::Scores shape = shape_of(a, batch, a.scale, n);
    const Kernel* found =
        begin(kernel, {a.q + first * q, a.k + first * k, a.scores + first * scores}, threads);
    if (found == nullptr) return;
    device_->bind_bytes(3, a.start + first, static_cast<std::size_t>(batch) * 4);
    device_->bind_bytes(4, &shape, sizeof(shape));
    device_->dispatch(*found, {static_cast<std::uint32_t>((n + threads - 1) / threads)}, threads);
  }
}

void MetalBackend::softmax_max(const SoftmaxArgs& a) {
  if (a.rows == 0 || a.columns == 0 || !fits("softmax_max_batch_f32", a.rows * a.columns)) return;
  run("softmax_max_batch_f32", {a.x, a.max}, shape_of(a), {static_cast<std::uint32_t>(a.rows)}, 32);
}
void MetalBackend::softmax_exp_sum(const SoftmaxArgs& a) {
  if (a.rows == 0 || !fits("softmax_exp_sum_f32", a.rows * a.columns)) return;
  run("softmax_exp_sum_f32", {a.x, a.max, a.sum}, shape_of(a), {static_cast<std::uint32_t>(a.rows)},
      32);
}
void MetalBackend::softmax_normalize(const SoftmaxArgs& a) {
  run_elements("softmax_normalize_f32", {a.x, a.sum}, shape_of(a), a.rows * a.columns);
}

void MetalBackend::apply_attention(const ApplyAttentionArgs& a) {
  const std::int64_t n = std::int64_t{a.batch} * a.queries * a.heads * a.head_size;
  run_elements("apply_attention_batch_f32", {a.weights, a.v, a.out}, shape_of(a, a.batch, 1.0f, n),
               n);
}

}  // namespace herd::metal
