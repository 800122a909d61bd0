#include "backend/cpu/cpu.h"

#include <fmt/format.h>

#include <cstring>
#include <thread>
#include <utility>

namespace herd {
namespace cpu {

void* allocate_aligned(std::int64_t bytes) {
  const std::size_t size = (static_cast<std::size_t>(bytes) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, size == 0 ? 64 : size);
  if (p != nullptr) std::memset(p, 0, size);
  return p;
}

namespace {

Result<const KernelTable*> choose_table(Isa isa) {
  const auto tables = present_tables();
  if (isa == Isa::automatic) return tables.front();
  std::string names;
  for (const KernelTable* table : tables) {
    if (table->isa == isa) return table;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", to_string(table->isa));
  }
  return Error{Code::unsupported,
               fmt::format("isa {}: this machine has {}", to_string(isa), names)};
}

}  // namespace

std::vector<const KernelTable*> present_tables() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  for (const KernelTable* table : {avx512_table(), avxvnni_table(), avx2_table()})
    if (table != nullptr) tables.push_back(table);
#elif defined(__aarch64__)
  for (const KernelTable* table : {neondot_table(), neon_table()})
    if (table != nullptr) tables.push_back(table);
#endif
  tables.push_back(&scalar_table());
  return tables;
}

const KernelTable& widest_table() {
  return *present_tables().front();
}

CpuBackend::CpuBackend(const KernelTable& table, int threads)
    : table_(table),
      weights_ahead_(threads),
      pool_(threads,
            {[](void* ahead, int thread) { static_cast<WeightsAhead*>(ahead)->ask(thread); },
             &weights_ahead_}),
      half_tasks_(static_cast<std::size_t>(threads / 2)),
      kv_ahead_(threads, last_level_cache()) {}

std::string CpuBackend::description() const {
  return fmt::format("cpu {}, {} thread{}", to_string(table_.isa), pool_.threads(),
                     pool_.threads() == 1 ? "" : "s");
}

// ---- memory ----

std::int64_t CpuBackend::matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                                      MatrixUse) const {
  return panel_count(rows) * panel_bytes(type, columns);
}

Result<MatrixId> CpuBackend::load_matrix(const MatrixSource& source) {
  const std::int64_t limit = std::int64_t{1} << 31;
  if (source.rows < 1 || source.columns < 1 || source.rows >= limit || source.columns >= limit)
    return Error{Code::out_of_range, fmt::format("matrix {}: {} x {} is outside 1..2^31-1",
                                                 source.name, source.rows, source.columns)};
  Matrix m{source.type,
           static_cast<std::int32_t>(source.rows),
           static_cast<std::int32_t>(source.columns),
           static_cast<std::int32_t>(panel_count(source.rows)),
           panel_bytes(source.type, source.columns),
           nullptr};
  m.data = weights_.take(m.panels * m.panel_bytes);
  if (m.data == nullptr)
    return Error{Code::resource_exhausted, fmt::format("matrix {}: no memory for {} bytes",
                                                       source.name, m.panels * m.panel_bytes)};
  // Reads are serial, a slab of pairs at a time; packing is shared out.
  const std::int64_t row_bytes = quant::row_bytes(source.type, source.columns);
  const std::int64_t pair_bytes = kPairPanels * m.panel_bytes;
  const std::int32_t slab = std::max<std::int32_t>(
      1, static_cast<std::int32_t>((std::int64_t{4} << 20) / (row_bytes * kPairRows)));
  std::vector<std::byte> raw(static_cast<std::size_t>(
      std::min<std::int64_t>(std::int64_t{slab} * kPairRows, source.rows) * row_bytes));
  for (std::int32_t first = 0; first * kPairRows < m.rows; first += slab) {
    const std::int32_t n_rows = std::min(slab * kPairRows, m.rows - first * kPairRows);
    const std::span<std::byte> bytes(raw.data(), static_cast<std::size_t>(n_rows * row_bytes));
    if (Status status = source.read(first * kPairRows, n_rows, bytes); !status.ok()) {
      weights_.release_to(matrices_.size());
      return status.error();
    }
    pool_.run((n_rows + kPairRows - 1) / kPairRows, [&](int pair, int) {
      const int rows = std::min(kPairRows, n_rows - pair * kPairRows);
      pack_pair(m.type, m.columns, rows, raw.data() + pair * kPairRows * row_bytes,
                {m.data + (first + pair) * pair_bytes, static_cast<std::size_t>(pair_bytes)});
    });
  }
  matrices_.push_back(m);
  return MatrixId{static_cast<std::int32_t>(matrices_.size()) - 1};
}

Result<void*> CpuBackend::allocate(std::int64_t bytes) {
  AlignedArray<std::byte> buffer(static_cast<std::byte*>(allocate_aligned(bytes)));
  if (buffer == nullptr)
    return Error{Code::resource_exhausted, fmt::format("no memory for {} bytes", bytes)};
  buffers_.push_back(std::move(buffer));
  return static_cast<void*>(buffers_.back().get());
}

void CpuBackend::release_to(MemoryMark mark) {
  last_product_ = {};
  matrices_.resize(std::min(matrices_.size(), mark.matrices));
  for (Matrix& m : matrices_)
    for (std::int32_t i = 0; i < m.next.n; ++i)
      if (static_cast<std::size_t>(m.next.weights[i].index) >= matrices_.size()) m.next = {};
  weights_.release_to(matrices_.size());
  while (buffers_.size() > mark.buffers) buffers_.pop_back();
}

Status CpuBackend::create_kv(const KvLayout& layout) {
  if (layout.page_size < 32 || layout.page_size > kChunk || kChunk % layout.page_size != 0)
    return {
        Code::out_of_range,
        fmt::format("page size {}: the cpu backend takes 32, 64, 128 or 256", layout.page_size)};
  if (layout.head_size > kMaxHeadSize)
    return {Code::out_of_range, fmt::format("head size {}: the cpu backend takes up to {}",
                                            layout.head_size, kMaxHeadSize)};
  const std::int64_t rows =
      std::int64_t{layout.layers} * layout.kv_heads * layout.page_size * layout.pages;
  pool_memory_.release_to(0);
  std::byte* keys = pool_memory_.take(rows * layout.key_bytes());
  std::byte* values = keys == nullptr ? nullptr : pool_memory_.take(rows * layout.value_bytes());
  if (keys == nullptr || values == nullptr)
    return {Code::resource_exhausted,
            fmt::format("KV pool: no memory for {} bytes", layout.bytes())};
  kv_ = {layout, keys, values};
  kv_ahead_.create(kv_);
  return {};
}

CpuBackend::Scratch CpuBackend::scratch_sizes(std::int32_t max_rows, std::int32_t max_columns,
                                              std::int32_t max_context) const {
  const std::int64_t row_block = std::min<std::int64_t>(max_rows, kRowBlock);
  Scratch s = {};
  s.inputs = std::int64_t{max_rows} * max_columns;
  if (max_rows > std::min(table_.fused_rows, kPackedFused - 1)) {
    s.packed = s.inputs;
    s.unpacked = table_.tile_panels * static_cast<std::int64_t>(sizeof(UnpackedPanel) / 4);
    s.totals = row_block * table_.tile_panels * kPanelRows;
  }
  s.query = std::int64_t{kMaxTileRows} * kMaxHeadSize;
  s.scores = std::int64_t{table_.tile_rows} * ((max_context + 31) / 32 * 32);
  s.halves = s.scores;
  s.own = std::min(kOwnInputs, std::int64_t{max_rows} * max_columns);
  return s;
}

std::int64_t CpuBackend::scratch_bytes(const StepLimits& limits) const {
  const Scratch s = scratch_sizes(limits.max_rows, limits.max_columns, limits.max_context);
  return 4 * (s.shared(pool_.threads()) + pool_.threads() * s.each());
}

Status CpuBackend::reserve_scratch(const StepLimits& limits) {
  const Scratch wanted = scratch_sizes(limits.max_rows, limits.max_columns, limits.max_context);
  const auto floats = [](std::int64_t n) { return static_cast<float*>(allocate_aligned(4 * n)); };
  shared_scratch_.reset(floats(wanted.shared(pool_.threads())));
  thread_scratch_.clear();
  bool ok = shared_scratch_ != nullptr;
  for (int t = 0; t < pool_.threads(); ++t) {
    thread_scratch_.emplace_back(floats(wanted.each()));
    ok = ok && thread_scratch_.back() != nullptr;
  }
  if (!ok)
    return {Code::resource_exhausted,
            fmt::format("scratch: no memory for {} bytes",
                        4 * (wanted.shared(pool_.threads()) + wanted.each()))};
  scratch_ = wanted;
  float* at = shared_scratch_.get();
  const auto take = [&at](std::int64_t n) { return std::exchange(at, at + Scratch::whole(n)); };
  shared_ = {};
  shared_.packed = take(wanted.packed);
  shared_.rounded = take_rounded(at, wanted.inputs);
  for (HalfTask& half : half_tasks_) half.scores = take(wanted.halves);
  own_.assign(thread_scratch_.size(), {});
  for (std::size_t t = 0; t < own_.size(); ++t) {
    Inputs& in = own_[t].in;
    at = thread_scratch_[t].get() + wanted.each() - wanted.own_inputs();
    in.normed = take(wanted.own);
    in.packed = take(wanted.own);
    in.rounded = take_rounded(at, wanted.own);
  }
  return {};
}

void CpuBackend::upload(void* to, const void* from, std::int64_t bytes) {
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}
Status CpuBackend::download(void* to, const void* from, std::int64_t bytes) {
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
  return {};
}
void CpuBackend::to_activations(const float* x, void* out, std::int64_t n) {
  std::memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float));
}

StepRows CpuBackend::begin_step(const Batch& batch) {
  batch_ = &batch;
  return {batch.n_rows(), static_cast<std::int32_t>(batch.logit_rows.size())};
}

}  // namespace cpu

Result<std::unique_ptr<Backend>> make_cpu_backend(const BackendOptions& options) {
  if (options.threads < 0 || options.threads > 1024)
    return Error{Code::out_of_range, fmt::format("threads {}: 0 to 1024", options.threads)};
  const auto table = cpu::choose_table(options.isa);
  if (!table.ok()) return table.error();
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return std::unique_ptr<Backend>(
      new cpu::CpuBackend(**table, options.threads == 0 ? cores : options.threads));
}

}  // namespace herd
