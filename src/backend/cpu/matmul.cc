// Sharing matrix products out between threads. Few rows: small chunks, the next weights asked for
// ahead. More rows: chunks that many runs of rows go through; weights that are values are unpacked
// once per block of rows and multiplied in tiles.
#include <utility>

#include "backend/cpu/cpu.h"
#include "backend/cpu/tiles.h"

namespace herd::cpu {
namespace {

/// Keys and values read beside which weights stay in the second-level cache of a thread's core.
constexpr std::int64_t kKeptBeside = 512 << 10;
constexpr std::int32_t kFusedChunk = 16, kTiledChunk = 64;  // panels, at most

/// Values are read once per kernel called: past two of them a single unpacking is the cheaper.
bool few_fused(const KernelTable& table, std::int32_t rows) {
  if (rows > table.fused_rows) return false;
  rows -= kFusedSizes[fused_size(table, rows)];
  return rows == 0 || rows == kFusedSizes[fused_size(table, rows)];
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

void CpuBackend::matmul(const MatmulArgs& call) {
  ProductArgs args = {};
  args.rows = call.rows;
  args.columns = matrix(call.weights[0]).columns;
  args.epilogue = call.epilogue;
  args.product.n = call.n_weights;
  args.product.paired = call.epilogue == Epilogue::swiglu;
  args.in = shared_;
  args.in.x = static_cast<const float*>(call.x);
  args.norm = std::exchange(norm_, {});
  std::int64_t bytes = 0;
  for (std::int32_t i = 0; i < call.n_weights; ++i) {
    const Matrix& m = matrix(call.weights[i]);
    args.product.weights[i] = call.weights[i];
    args.out[i] = static_cast<float*>(call.out[i]);
    add_wanted(m.type, args.wanted);
    bytes += m.panels * m.panel_bytes;
    counters_.matmul_flops += std::uint64_t{2} * static_cast<std::uint64_t>(call.rows) *
                              static_cast<std::uint64_t>(m.rows) *
                              static_cast<std::uint64_t>(m.columns);
    ++counters_.matmuls;
  }
  counters_.weight_bytes += static_cast<std::uint64_t>(bytes);
  if (args.rows == 0) return;
  learn_order(args.product);
  kv_ahead_.product_begins(bytes);
  if (args.wanted.values ? few_fused(table_, args.rows) : args.rows <= kCodedRows)
    matmul_fused(args);
  else
    matmul_tiled(args);
}

/// Steps run the same products in the same order: what came next the last time does so again.
void CpuBackend::learn_order(const Product& product) {
  if (last_product_.n > 0) {
    Product& next = matrices_[static_cast<std::size_t>(last_product_.weights[0].index)].next;
    if (!(next == product)) next = product;  // else it stays in the caches of all threads
  }
  last_product_ = product;
}

void CpuBackend::matmul_fused(const ProductArgs& args) {
  FusedWork work = {Division(args.product, matrices_.data(), pool_.threads(), kFusedChunk),
                    Division(matrix(args.product.weights[0]).next, matrices_.data(),
                             pool_.threads(), kFusedChunk),
                    counters_.matmuls,
                    std::int64_t{args.rows} * args.columns <= kOwnInputs,
                    std::exchange(attended_bytes_, 0) <= kKeptBeside,
                    args,
                    kv_ahead_.fetches()};
  if (!work.own_inputs) prepare_shared(args, /*fused=*/true);
  pool_.run(work.now.chunks, work.now.grain, [work, this](int first, int end, int thread) {
    fused_begin(work, thread);
    const WeightsAhead::Share share = share_of(work.now, thread);
    const bool own = first >= share.first && first < share.end;
    work.now.for_each_run(first, end,
                          [&](const Division::Run& run) { fused_run(work, run, own, thread); });
  });
}

WeightsAhead::Share CpuBackend::share_of(const Division& d, int thread) const {
  return {d, pool_.first_chunk(d.chunks, thread), pool_.first_chunk(d.chunks, thread + 1)};
}

/// What a thread does once, when it comes to a product.
void CpuBackend::fused_begin(const FusedWork& work, int thread) {
  if (!weights_ahead_.is_new(thread, work.number)) return;
  ask_for_inputs(work.args);
  weights_ahead_.begin(thread, share_of(work.now, thread), share_of(work.next, thread), work.kept);
  if (work.own_inputs) prepare_own(work.args, thread);
}

/// `own`: of the thread's own share. What it takes over of another's, nobody has asked for on this
/// core.
void CpuBackend::fused_run(const FusedWork& work, const Division::Run& run, bool own, int thread) {
  const ProductArgs& args = work.args;
  const Inputs& in = work.own_inputs ? own_[static_cast<std::size_t>(thread)].in : args.in;
  for (std::int32_t w = run.weight; w < run.weight + run.weights; ++w) {
    const Matrix& m = *work.now.matrices[w];
    const std::byte* begin = m.panel(run.first);
    Fetch others = {begin + WeightsAhead::kAheadBytes, begin + run.count * m.panel_bytes, nullptr,
                    nullptr};
    Fetch* weights = own ? weights_ahead_.fetch(thread) : &others;
    Fetch* fetch = KvAhead::of_thread(work.kv, thread);
    if (!is_plain(m.type)) {
      coded_panels(args, in, m, args.out[w], run.first, run.count, weights, fetch);
      continue;
    }
    const auto& kernels = table_.fused[type_index(m.type)];
    for_fused_rows(table_, args.rows, [&](std::int32_t row, int size) {
      const bool packed = kFusedSizes[size] >= kPackedFused;
      kernels[size]({m.data, m.panel_bytes, run.first, run.count, m.columns,
                     (packed ? in.packed : in.x) + std::int64_t{row} * m.columns,
                     args.out[w] + std::int64_t{row} * m.rows, m.rows,
                     args.epilogue == Epilogue::add, row == 0 ? weights : nullptr, fetch});
    });
  }
  if (args.epilogue != Epilogue::swiglu) return;
  const std::int32_t outputs = work.now.matrices[0]->rows, first = run.first * kPanelRows;
  const std::int32_t n = std::min(run.count * kPanelRows, outputs - first);
  for (std::int32_t row = 0; row < args.rows && n > 0; ++row) {
    const std::int64_t at = std::int64_t{row} * outputs + first;
    table_.swiglu(args.out[0] + at, args.out[1] + at, args.out[0] + at, n);
  }
}

/// Panels of a matrix of codes times all rows, a run after the other.
void CpuBackend::coded_panels(const ProductArgs& args, const Inputs& in, const Matrix& m,
                              float* out, std::int32_t first_panel, std::int32_t n_panels,
                              Fetch* weights, Fetch* fetch) const {
  const int type = type_index(m.type);
  for (std::int32_t t = 0; t < tile_count(args.rows, kCodedRows); ++t) {
    const TileRows run = tile_rows(args.rows, kCodedRows, t);
    const auto kernel = run.rows == 1 ? table_.coded_row[type] : table_.coded_rows[type];
    kernel({m.data, m.panel_bytes, first_panel, n_panels, m.columns,
            run_at(in.rounded, run.first, m.columns), run.rows,
            out + std::int64_t{run.first} * m.rows, m.rows, args.epilogue == Epilogue::add,
            t == 0 ? weights : nullptr, fetch});
  }
}

void CpuBackend::matmul_tiled(const ProductArgs& args) {
  prepare_shared(args, /*fused=*/false);
  Product product = args.product;
  product.paired = false;
  const Division division(product, matrices_.data(), pool_.threads(), kTiledChunk);
  pool_.run(division.chunks, division.grain, [&](int first, int end, int thread) {
    division.for_each_run(first, end, [&](const Division::Run& run) {
      const Matrix& m = *division.matrices[run.weight];
      if (!is_plain(m.type))
        return coded_panels(args, args.in, m, args.out[run.weight], run.first, run.count, nullptr,
                            KvAhead::of_thread(kv_ahead_.fetches(), thread));
      for (std::int32_t p = 0; p < run.count; p += table_.tile_panels)
        tiled_panels(args, m, args.out[run.weight], run.first + p, table_.tile_panels, thread);
    });
  });
  if (args.epilogue == Epilogue::swiglu)
    swiglu({args.out[0], args.out[1], args.out[0],
            std::int64_t{args.rows} * matrix(args.product.weights[0]).rows});
}

void CpuBackend::tiled_panels(const ProductArgs& args, const Matrix& m, float* out,
                              std::int32_t first_panel, std::int32_t n_panels, int thread) {
  float* scratch = thread_scratch_[static_cast<std::size_t>(thread)].get();
  auto* unpacked = reinterpret_cast<UnpackedPanel*>(scratch);
  float* totals = scratch + scratch_.unpacked;
  const UnpackFn unpack = table_.unpack[type_index(m.type)];
  const auto& tiles_by_rows = table_.tile[n_panels - 1];
  const std::int32_t width = n_panels * kPanelRows;
  const std::int32_t tiles = tile_count(args.rows, table_.tile_rows);
  const std::int32_t block = kRowBlock / table_.tile_rows;  // tiles per block of rows
  Fetch* fetch = KvAhead::of_thread(kv_ahead_.fetches(), thread);
  for (std::int32_t t0 = 0; t0 < tiles; t0 += block) {
    const std::int32_t t1 = std::min(tiles, t0 + block);
    const std::int32_t base = tile_rows(args.rows, table_.tile_rows, t0).first;
    const TileRows last = tile_rows(args.rows, table_.tile_rows, t1 - 1);
    const std::int32_t rows_in_block = last.first + last.rows - base;
    std::fill_n(totals, rows_in_block * width, 0.0f);
    for (std::int32_t k0 = 0; k0 < m.columns; k0 += kChunk) {
      const std::int32_t n = std::min(kChunk, m.columns - k0);
      for (std::int32_t p = 0; p < n_panels; ++p)
        unpack(m.panel(first_panel + p), k0, n, unpacked[p]);
      for (std::int32_t t = t0; t < t1; ++t) {
        const TileRows rows = tile_rows(args.rows, table_.tile_rows, t);
        tiles_by_rows[rows.rows - 1](
            {unpacked,
             args.in.packed + std::int64_t{rows.first} * m.columns + std::int64_t{k0} * rows.rows,
             n, totals + std::int64_t{rows.first - base} * width, fetch});
      }
    }
    store_totals(totals, width, rows_in_block, first_panel * kPanelRows, m.rows,
                 out + std::int64_t{base} * m.rows, args.epilogue == Epilogue::add);
  }
}

}  // namespace herd::cpu
