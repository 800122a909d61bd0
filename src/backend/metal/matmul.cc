// batch_matmul and the ops around it: embed, to_activations.
#include <fmt/format.h>

#include <algorithm>

#include "backend/metal/metal.h"

namespace herd::metal {
namespace {

std::string of_type(const char* kernel, quant::Type type) {
  return fmt::format("{}_{}", kernel, quant::type_info(type).name);
}
std::uint32_t pieces(std::int64_t n, std::int64_t size) {
  return static_cast<std::uint32_t>((n + size - 1) / size);
}

}  // namespace

void MetalBackend::to_activations(const float* x, void* out, std::int64_t n) {
  run_elements("to_half", {x, out}, args::Elements{static_cast<std::uint32_t>(n), 0}, n);
}

void MetalBackend::embed(const EmbedArgs& a) {
  const Matrix& m = matrix(a.table);
  const args::Embed shape = {static_cast<std::uint32_t>(a.rows),
                             static_cast<std::uint32_t>(m.columns), m.row_bytes};
  run_elements(
      of_type("embed_batch", m.type),
      {m.blocks.data, step_part(room_.ids()), chosen_[(n_sampled_ + 1) % 2].ids.data, a.out}, shape,
      a.rows * m.columns);
  done("embed", a.out, a.rows, m.columns, false);
}

void MetalBackend::multiply(const Matrix& m, const void* x, std::int32_t rows, void* out,
                            bool add) {
  const bool few = rows <= args::kFewRows;
  const std::string kernel = of_type(few ? "batch_matmul_8" : "batch_matmul_32", m.type);
  const std::uint32_t threads = threads_of(kernel, 32 * args::kMaxSimdgroups);
  const args::Matmul shape = {static_cast<std::uint32_t>(rows),
                              static_cast<std::uint32_t>(m.columns),
                              static_cast<std::uint32_t>(m.rows), add ? 1u : 0u, m.row_bytes};
  run(kernel, {x, m.blocks.data, out}, shape,
      {pieces(m.rows, threads / 32 * args::kTile),
       pieces(rows, few ? args::kFewRows : args::kManyRows)},
      threads);
  counters_.weight_bytes += static_cast<std::uint64_t>(m.rows * m.row_bytes);
  counters_.matmul_flops += std::uint64_t{2} * static_cast<std::uint64_t>(rows) *
                            static_cast<std::uint64_t>(m.rows) *
                            static_cast<std::uint64_t>(m.columns);
  ++counters_.matmuls;
}

void MetalBackend::matmul(const MatmulArgs& a) {
  if (a.rows == 0) return;
  if (a.epilogue != Epilogue::swiglu) {
    for (std::int32_t i = 0; i < a.n_weights; ++i) {
      const Matrix& m = matrix(a.weights[i]);
      multiply(m, a.x, a.rows, a.out[i], a.epilogue == Epilogue::add);
      done("matmul", a.out[i], a.rows, m.rows, false);
    }
    return;
  }
  const std::int64_t columns = matrix(a.weights[0]).rows, n = a.rows * columns;
  if (!make_products(n).ok()) return;
  multiply(matrix(a.weights[0]), a.x, a.rows, gate_.data, false);
  multiply(matrix(a.weights[1]), a.x, a.rows, up_.data, false);
  run_elements("swiglu_activation_f16", {gate_.data, up_.data, a.out[0]},
               args::Elements{static_cast<std::uint32_t>(n), 0}, n);
  done("matmul with swiglu", a.out[0], a.rows, columns, true);
}

}  // namespace herd::metal
