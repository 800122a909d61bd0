// Sharing matrix products out between threads. Few rows: weights are decoded and used in registers.
// More rows: panels are unpacked to floats once per block of rows and multiplied in tiles.
#include <cstring>

#include "backend/cpu/cpu.h"
#include "backend/cpu/for_each.h"

namespace herd::cpu {
namespace {

constexpr std::int32_t kPackPiece = 64;  // inputs packed at a time

constexpr std::int32_t kReadAheadRows = 4;  // up to here a product is bound by reading

/// Rows [first, first + rows) of tile `t` when n rows are split as evenly as tiles of `most` allow.
struct TileRows {
  std::int32_t first, rows;
};
TileRows tile_rows(std::int32_t n, std::int32_t most, std::int32_t t) {
  const std::int32_t tiles = (n + most - 1) / most;
  const std::int32_t first = static_cast<std::int32_t>(std::int64_t{n} * t / tiles);
  return {first, static_cast<std::int32_t>(std::int64_t{n} * (t + 1) / tiles) - first};
}
std::int32_t tile_count(std::int32_t n, std::int32_t most) {
  return (n + most - 1) / most;
}

/// The largest of kFusedSizes that `table` has and `rows` more rows fill, as an index.
int fused_size(const KernelTable& table, std::int32_t rows) {
  int size = 0;
  while (size + 1 < kFusedKinds && kFusedSizes[size + 1] <= rows &&
         table.fused[0][size + 1] != nullptr)
    ++size;
  return size;
}
/// Weights are decoded once per kernel called: past two of them a single unpacking is the cheaper.
bool few_fused(const KernelTable& table, std::int32_t rows) {
  rows -= kFusedSizes[fused_size(table, rows)];
  return rows == 0 || rows == kFusedSizes[fused_size(table, rows)];
}

/// Inputs that are summed before a scale is applied.
std::int32_t group_of(const Matrix& m) {
  const int group = quant::type_info(m.type).group;
  return group == 0 ? kChunk : group;
}

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

/// Panels handed to a thread at a time, up to `most`: enough to amortise the hand-out, few enough
/// to balance.
std::int32_t panels_per_chunk(std::int32_t panels, int threads, std::int32_t most) {
  return std::clamp(panels / (8 * threads), 2, most) / 2 * 2;
}

}  // namespace

void CpuBackend::products(const ProductArgs& args) {
  std::int64_t bytes = 0;
  for (std::int32_t i = 0; i < args.n_weights; ++i) {
    const Matrix& m = matrix(args.weights[i]);
    bytes += m.panels * m.panel_bytes;
    counters_.matmul_flops += std::uint64_t{2} * static_cast<std::uint64_t>(args.rows) *
                              static_cast<std::uint64_t>(m.rows) *
                              static_cast<std::uint64_t>(m.columns);
    ++counters_.matmuls;
  }
  counters_.weight_bytes += static_cast<std::uint64_t>(bytes);
  if (args.rows == 0) return;
  look_ahead(args);
  kv_ahead_.product_begins(bytes);
  sum_inputs(args);
  if (args.rows <= table_.fused_rows && few_fused(table_, args.rows))
    matmul_fused(args);
  else
    matmul_tiled(args);
}

/// Steps run the same products in the same order, so what came next the last time is what to fetch
/// while a thread waits: at few rows a step is bound by the reading of weights, and waiting for the
/// other threads, or for an op too small to share, would be time in which nothing is read.
void CpuBackend::look_ahead(const ProductArgs& args) {
  const std::int32_t first = args.weights[0].index;
  if (last_product_ >= 0) matrices_[static_cast<std::size_t>(last_product_)].next = first;
  last_product_ = first;
  const std::int32_t next = matrix(args.weights[0]).next;
  if (next < 0 || args.rows > kReadAheadRows) return weights_ahead_.set(nullptr, 0);
  const Matrix& m = matrix({next});
  weights_ahead_.set(m.data, m.panels * m.panel_bytes);
}

/// Sums of each group of inputs, for every size of group among the weights that have mins.
void CpuBackend::sum_inputs(const ProductArgs& args) {
  for (InputSums& sums : sums_) sums.wanted = false;
  for (std::int32_t i = 0; i < args.n_weights; ++i) {
    const Matrix& m = matrix(args.weights[i]);
    const quant::TypeInfo& info = quant::type_info(m.type);
    InputSums& sums = sums_[info.group == 16 ? 0 : 1];
    if (!info.has_min || sums.wanted) continue;
    sums.wanted = true;
    for_each(args.rows, m.columns, [&](std::int64_t row) {
      table_.group_sums(args.x + row * m.columns, m.columns, info.group,
                        sums.rows.get() + row * (m.columns / info.group));
    });
  }
}

/// Rows [first, first + rows) for a kernel that takes them side by side: inputs [k0, k1).
void CpuBackend::pack_input(const ProductArgs& args, std::int32_t first, std::int32_t rows,
                            std::int32_t k0, std::int32_t k1) {
  const std::int32_t columns = matrix(args.weights[0]).columns;
  const std::int64_t at = std::int64_t{first} * columns;
  pack_rows(args.x + at, columns, rows, k0, k1, packed_.get() + at);
  for (const InputSums& sums : sums_) {
    if (!sums.wanted) continue;
    const std::int32_t groups = columns / sums.group;
    const std::int64_t sums_at = std::int64_t{first} * groups;
    pack_rows(sums.rows.get() + sums_at, groups, rows, k0 / sums.group, k1 / sums.group,
              sums.packed.get() + sums_at);
  }
}

/// Where the sums of row `row` for a matrix stand, or null if it needs none.
const float* CpuBackend::sums_of(const Matrix& m, std::int32_t row, bool packed) const {
  const quant::TypeInfo& info = quant::type_info(m.type);
  if (!info.has_min) return nullptr;
  const InputSums& sums = sums_[info.group == 16 ? 0 : 1];
  return (packed ? sums.packed : sums.rows).get() + std::int64_t{row} * (m.columns / info.group);
}

namespace {

/// A run of panels of one of the op's matrices; chunks of all matrices are numbered in a row.
struct PanelRun {
  std::int32_t weight, first, count;
};
PanelRun panel_run(const std::int32_t* chunk_ends, std::int32_t n_weights, std::int32_t per_chunk,
                   const std::int32_t* panels, int chunk) {
  std::int32_t w = 0;
  while (w + 1 < n_weights && chunk >= chunk_ends[w]) ++w;
  const std::int32_t first = (chunk - (w == 0 ? 0 : chunk_ends[w - 1])) * per_chunk;
  return {w, first, std::min(per_chunk, panels[w] - first)};
}

/// Rows of totals [rows][width] to out [rows][outputs] at column n0, without the padding.
void store_totals(const float* totals, std::int32_t width, std::int32_t rows, std::int32_t n0,
                  std::int32_t outputs, float* out, bool add) {
  const std::int32_t n = std::min(width, outputs - n0);
  for (std::int32_t r = 0; r < rows; ++r) {
    const float* from = totals + std::int64_t{r} * width;
    float* to = out + std::int64_t{r} * outputs + n0;
    for (std::int32_t i = 0; i < n; ++i) to[i] = add ? to[i] + from[i] : from[i];
  }
}

}  // namespace

void CpuBackend::matmul_fused(const ProductArgs& args) {
  const std::int32_t columns = matrix(args.weights[0]).columns;
  for (std::int32_t row = 0; row < args.rows;) {
    const std::int32_t rows = kFusedSizes[fused_size(table_, args.rows - row)];
    if (rows >= kPackedFused)
      for_each((columns + kPackPiece - 1) / kPackPiece, rows * kPackPiece, [&](std::int64_t i) {
        const std::int32_t k0 = static_cast<std::int32_t>(i) * kPackPiece;
        pack_input(args, row, rows, k0, std::min(columns, k0 + kPackPiece));
      });
    row += rows;
  }
  std::int32_t panels[3] = {}, ends[3] = {}, total = 0, chunks = 0;
  for (std::int32_t i = 0; i < args.n_weights; ++i)
    total += panels[i] = matrix(args.weights[i]).panels;
  const std::int32_t per_chunk = panels_per_chunk(total, pool_.threads(), 4);
  for (std::int32_t i = 0; i < args.n_weights; ++i)
    ends[i] = chunks += (panels[i] + per_chunk - 1) / per_chunk;

  pool_.run(chunks, [&](int chunk, int thread) {
    const PanelRun run = panel_run(ends, args.n_weights, per_chunk, panels, chunk);
    const Matrix& m = matrix(args.weights[run.weight]);
    const auto& kernels = table_.fused[type_index(m.type)];
    for (std::int32_t row = 0; row < args.rows;) {
      const int size = fused_size(table_, args.rows - row);
      const bool packed = kFusedSizes[size] >= kPackedFused;
      const float* x = packed ? packed_.get() : args.x;
      kernels[size]({m.data, m.panel_bytes, run.first, run.count, m.columns,
                     x + std::int64_t{row} * m.columns, sums_of(m, row, packed),
                     args.out[run.weight] + std::int64_t{row} * m.rows, m.rows, args.add,
                     kv_ahead_.fetch(thread)});
      row += kFusedSizes[size];
    }
  });
}

void CpuBackend::pack_inputs(const ProductArgs& args, std::int32_t columns) {
  // [tile][chunk][input][rows of the tile]: what a tile reads is one run of memory.
  const std::int32_t tiles = tile_count(args.rows, table_.tile_rows);
  for_each(tiles, std::int64_t{table_.tile_rows} * columns, [&](std::int64_t t) {
    const TileRows rows = tile_rows(args.rows, table_.tile_rows, static_cast<std::int32_t>(t));
    pack_input(args, rows.first, rows.rows, 0, columns);
  });
}

void CpuBackend::matmul_tiled(const ProductArgs& args) {
  pack_inputs(args, matrix(args.weights[0]).columns);
  std::int32_t panels[3] = {}, ends[3] = {}, total = 0, chunks = 0;
  for (std::int32_t i = 0; i < args.n_weights; ++i)
    total += panels[i] = matrix(args.weights[i]).panels;
  const std::int32_t per_chunk = panels_per_chunk(total, pool_.threads(), 64);
  for (std::int32_t i = 0; i < args.n_weights; ++i)
    ends[i] = chunks += (panels[i] + per_chunk - 1) / per_chunk;

  pool_.run(chunks, [&](int chunk, int thread) {
    const PanelRun run = panel_run(ends, args.n_weights, per_chunk, panels, chunk);
    const Matrix& m = matrix(args.weights[run.weight]);
    for (std::int32_t p = 0; p < run.count; p += table_.tile_panels)
      tiled_panels(args, m, args.out[run.weight], run.first + p, table_.tile_panels, thread);
  });
}

void CpuBackend::tiled_panels(const ProductArgs& args, const Matrix& m, float* out,
                              std::int32_t first_panel, std::int32_t n_panels, int thread) {
  float* scratch = thread_scratch_[static_cast<std::size_t>(thread)].get();
  auto* unpacked = reinterpret_cast<UnpackedPanel*>(scratch);
  float* totals = scratch + scratch_.unpacked;
  const UnpackFn unpack = table_.unpack[type_index(m.type)];
  const auto& tiles_by_rows = table_.tile[n_panels - 1];
  const std::int32_t group = group_of(m), width = n_panels * kPanelRows;
  const std::int32_t tiles = tile_count(args.rows, table_.tile_rows);
  const std::int32_t block = kRowBlock / table_.tile_rows;  // tiles per block of rows
  for (std::int32_t t0 = 0; t0 < tiles; t0 += block) {
    const std::int32_t t1 = std::min(tiles, t0 + block);
    const std::int32_t base = tile_rows(args.rows, table_.tile_rows, t0).first;
    const TileRows last = tile_rows(args.rows, table_.tile_rows, t1 - 1);
    const std::int32_t rows_in_block = last.first + last.rows - base;
    std::fill_n(totals, rows_in_block * width, 0.0f);
    for (std::int32_t k0 = 0; k0 < m.columns; k0 += kChunk) {
      const std::int32_t n = std::min(kChunk, m.columns - k0);
      for (std::int32_t p = 0; p < n_panels; ++p)
        unpack(m.data + (first_panel + p) * m.panel_bytes, k0, n, unpacked[p]);
      for (std::int32_t t = t0; t < t1; ++t) {
        const TileRows rows = tile_rows(args.rows, table_.tile_rows, t);
        const float* sums = sums_of(m, rows.first, true);
        tiles_by_rows[rows.rows - 1](
            {unpacked,
             packed_.get() + std::int64_t{rows.first} * m.columns + std::int64_t{k0} * rows.rows,
             sums == nullptr ? nullptr : sums + k0 / group * rows.rows, n, group,
             totals + std::int64_t{rows.first - base} * width, kv_ahead_.fetch(thread)});
      }
    }
    store_totals(totals, width, rows_in_block, first_panel * kPanelRows, m.rows,
                 out + std::int64_t{base} * m.rows, args.add);
  }
}

}  // namespace herd::cpu
