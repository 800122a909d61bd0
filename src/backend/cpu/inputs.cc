// Inputs of matrix products as the kernels take them: normed, then rounded for weights of codes, or
// packed.
#include <cstring>
#include <utility>

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

void CpuBackend::add_wanted(quant::Type type, Wanted& wanted) {
  if (is_plain(type)) {
    wanted.values = true;
    return;
  }
  wanted.rounded = true;
  const quant::TypeInfo& info = quant::type_info(type);
  const int size = info.group == kSumGroups[0] ? 0 : 1;
  (info.has_min ? wanted.of_groups.sums : wanted.of_groups.less)[size] = true;
}

RoundedRun CpuBackend::take_rounded(float*& at, std::int64_t inputs) {
  const auto take = [&at](std::int64_t n) { return std::exchange(at, at + Scratch::whole(n)); };
  RoundedRun run = {};
  run.digits = reinterpret_cast<std::int8_t*>(take(inputs));
  run.scales = take(inputs / kRoundGroup);
  for (int i = 0; i < kSumSizes; ++i) {
    run.sums[i] = take(inputs / kSumGroups[i]);
    run.less[i] = reinterpret_cast<std::int32_t*>(take(2 * (inputs / kSumGroups[i])));
  }
  return run;
}

/// The run that begins with row `first_row`: what the rows before it take stands before it.
RoundedRun CpuBackend::run_at(const RoundedRun& all, std::int64_t first_row, std::int64_t columns) {
  const std::int64_t before = first_row * columns;
  RoundedRun run = all;
  run.digits += 4 * before;
  run.scales += before / kRoundGroup;
  for (int i = 0; i < kSumSizes; ++i) {
    run.sums[i] += before / kSumGroups[i];
    run.less[i] += 2 * (before / kSumGroups[i]);
  }
  return run;
}

/// Rows [first, first + rows), a run: inputs [k0, k1), whole groups.
void CpuBackend::round_run(const ProductArgs& args, const Inputs& in, std::int32_t first,
                           std::int32_t rows, std::int32_t k0, std::int32_t k1) const {
  const RoundedRun run = run_at(in.rounded, first, args.columns);
  for (std::int32_t row = 0; row < rows; ++row)
    table_.round({in.x + std::int64_t{first + row} * args.columns, k0 / kRoundGroup,
                  k1 / kRoundGroup, row, rows, run, args.wanted.of_groups});
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
  for (std::int32_t row = 0; norm && row < args.rows; ++row)
    norm_row(args.norm, row, in.normed + std::int64_t{row} * args.columns);
  if (args.wanted.rounded) round_run(args, in, 0, args.rows, 0, args.columns);
  if (!args.wanted.values) return;
  for_fused_rows(table_, args.rows, [&](std::int32_t row, int size) {
    const std::int32_t rows = kFusedSizes[size];
    if (rows < kPackedFused) return;
    const std::int64_t at = std::int64_t{row} * args.columns;
    pack_rows(in.x + at, args.columns, rows, 0, args.columns, in.packed + at);
  });
}

/// Many: shared out. Kernels that are not `fused` take tiles.
void CpuBackend::prepare_shared(const ProductArgs& args, bool fused) {
  if (args.norm.x != nullptr) norm_rows(args.norm);
  const std::int32_t pieces = (args.columns + kPackPiece - 1) / kPackPiece;
  const auto pack = [&](std::int32_t first, std::int32_t rows, std::int32_t k0, std::int32_t k1) {
    const std::int64_t at = std::int64_t{first} * args.columns;
    pack_rows(args.in.x + at, args.columns, rows, k0, k1, args.in.packed + at);
  };
  if (args.wanted.rounded) {
    // Pieces of all rows of a run: threads write nothing side by side.
    const std::int32_t runs = tile_count(args.rows, kCodedRows);
    for_each(std::int64_t{runs} * pieces, std::int64_t{args.rows} / runs * kPackPiece,
             [&](std::int64_t i) {
               const TileRows run =
                   tile_rows(args.rows, kCodedRows, static_cast<std::int32_t>(i / pieces));
               const std::int32_t k0 = static_cast<std::int32_t>(i % pieces) * kPackPiece;
               round_run(args, args.in, run.first, run.rows, k0,
                         std::min(args.columns, k0 + kPackPiece));
             });
  }
  if (!args.wanted.values) return;
  if (!fused) {
    // [tile][chunk][input][rows of the tile]: what a tile reads is one run of memory.
    for_each(tile_count(args.rows, table_.tile_rows), std::int64_t{table_.tile_rows} * args.columns,
             [&](std::int64_t t) {
               const TileRows tile =
                   tile_rows(args.rows, table_.tile_rows, static_cast<std::int32_t>(t));
               pack(tile.first, tile.rows, 0, args.columns);
             });
    return;
  }
  for_fused_rows(table_, args.rows, [&](std::int32_t row, int size) {
    const std::int32_t rows = kFusedSizes[size];
    if (rows >= kPackedFused)
      for_each(pieces, rows * kPackPiece, [&](std::int64_t i) {
        const std::int32_t k0 = static_cast<std::int32_t>(i) * kPackPiece;
        pack(row, rows, k0, std::min(args.columns, k0 + kPackPiece));
      });
  });
}

}  // namespace herd::cpu
