// Inputs of matrix products as the kernels take them: normed, their groups summed, and packed.
#include <cstring>

#include "backend/cpu/cpu.h"
#include "backend/cpu/for_each.h"
#include "backend/cpu/tiles.h"

namespace herd::cpu {
namespace {

/// Four floats: the narrowest registers of every machine, wide enough for a copy.
using F4 = float __attribute__((vector_size(16)));
F4 load4(const float* p) {
  F4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
void store4(float* p, F4 v) {
  std::memcpy(p, &v, sizeof v);
}
/// Rows of 4 x 4 floats, `stride` apart, to columns `to_stride` apart.
void transpose4(const float* x, std::int64_t stride, float* to, std::int64_t to_stride) {
  const F4 a = load4(x), b = load4(x + stride), c = load4(x + 2 * stride),
           d = load4(x + 3 * stride);
  const F4 ab01 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const F4 ab23 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const F4 cd01 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const F4 cd23 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store4(to, __builtin_shufflevector(ab01, cd01, 0, 1, 4, 5));
  store4(to + to_stride, __builtin_shufflevector(ab01, cd01, 2, 3, 6, 7));
  store4(to + 2 * to_stride, __builtin_shufflevector(ab23, cd23, 0, 1, 4, 5));
  store4(to + 3 * to_stride, __builtin_shufflevector(ab23, cd23, 2, 3, 6, 7));
}

/// Rows [rows][columns] to [columns][rows], for inputs [k0, k1).
void pack_rows(const float* x, std::int32_t columns, std::int32_t rows, std::int32_t k0,
               std::int32_t k1, float* to) {
  const std::int32_t rows4 = rows / 4 * 4, k4 = k0 + (k1 - k0) / 4 * 4;
  for (std::int32_t k = k0; k < k4; k += 4)
    for (std::int32_t r = 0; r < rows4; r += 4)
      transpose4(x + std::int64_t{r} * columns + k, columns, to + std::int64_t{k} * rows + r, rows);
  for (std::int32_t k = k0; k < k1; ++k)
    for (std::int32_t r = k < k4 ? rows4 : 0; r < rows; ++r)
      to[std::int64_t{k} * rows + r] = x[std::int64_t{r} * columns + k];
}

constexpr std::int32_t kPackPiece = 64;  // inputs packed at a time
/// Inputs asked for at once, at most: a sixth of a first-level cache.
constexpr std::int64_t kAskedInputs = 2 << 10;

}  // namespace

void CpuBackend::sum_row(const ProductArgs& args, const Inputs& in, std::int64_t row) const {
  for (int i = 0; i < kSumSizes; ++i) {
    const std::int64_t groups = args.columns / kSumGroups[i];
    if (args.with_sums[i])
      table_.group_sums(in.x + row * args.columns, args.columns, kSumGroups[i],
                        in.sums[i] + row * groups);
  }
}

/// Rows [first, first + rows) for a kernel that takes them side by side: inputs [k0, k1).
void CpuBackend::pack_input(const ProductArgs& args, const Inputs& in, std::int32_t first,
                            std::int32_t rows, std::int32_t k0, std::int32_t k1) const {
  const std::int64_t at = std::int64_t{first} * args.columns;
  pack_rows(in.x + at, args.columns, rows, k0, k1, in.packed + at);
  for (int i = 0; i < kSumSizes; ++i) {
    const std::int32_t group = kSumGroups[i], groups = args.columns / group;
    const std::int64_t sums_at = std::int64_t{first} * groups;
    if (args.with_sums[i])
      pack_rows(in.sums[i] + sums_at, groups, rows, k0 / group, k1 / group,
                in.packed_sums[i] + sums_at);
  }
}

/// What other threads wrote is fetched from their caches: all at once, not line after line when it
/// is read.
void CpuBackend::ask_for_inputs(const ProductArgs& args) {
  const float* x = args.norm.x != nullptr ? args.norm.x : args.in.x;
  ask_for<CacheLevel::first>(x, 4 * std::min(kAskedInputs, std::int64_t{args.rows} * args.columns));
}

/// Few inputs: a thread that reads all of them anyway had better prepare them in its own cache than
/// wait for another's.
void CpuBackend::prepare_own(const ProductArgs& args, int thread) {
  Inputs& in = own_[static_cast<std::size_t>(thread)].in;
  const bool norm = args.norm.x != nullptr;
  in.x = norm ? in.normed : args.in.x;
  for (std::int32_t row = 0; row < args.rows; ++row) {
    if (norm) norm_row(args.norm, row, in.normed + std::int64_t{row} * args.columns);
    sum_row(args, in, row);
  }
  for_fused_rows(table_, args.rows, [&](std::int32_t row, int size) {
    const std::int32_t rows = kFusedSizes[size];
    if (rows >= kPackedFused) pack_input(args, in, row, rows, 0, args.columns);
  });
}

/// Many: shared out. Kernels that are not `fused` take tiles.
void CpuBackend::prepare_shared(const ProductArgs& args, bool fused) {
  if (args.norm.x != nullptr) norm_rows(args.norm);
  if (args.with_sums[0] || args.with_sums[1])
    for_each(args.rows, args.columns, [&](std::int64_t row) { sum_row(args, args.in, row); });
  if (!fused) {
    // [tile][chunk][input][rows of the tile]: what a tile reads is one run of memory.
    for_each(tile_count(args.rows, table_.tile_rows), std::int64_t{table_.tile_rows} * args.columns,
             [&](std::int64_t t) {
               const TileRows rows =
                   tile_rows(args.rows, table_.tile_rows, static_cast<std::int32_t>(t));
               pack_input(args, args.in, rows.first, rows.rows, 0, args.columns);
             });
    return;
  }
  for_fused_rows(table_, args.rows, [&](std::int32_t row, int size) {
    const std::int32_t rows = kFusedSizes[size];
    if (rows >= kPackedFused)
      for_each((args.columns + kPackPiece - 1) / kPackPiece, rows * kPackPiece,
               [&](std::int64_t i) {
                 const std::int32_t k0 = static_cast<std::int32_t>(i) * kPackPiece;
                 pack_input(args, args.in, row, rows, k0, std::min(args.columns, k0 + kPackPiece));
               });
  });
}

}  // namespace herd::cpu
