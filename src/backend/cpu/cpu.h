// The CPU backend: packed weights, a paged KV pool, and ops shared out between threads.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/ahead.h"
#include "backend/cpu/arena.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"
#include "base/memory.h"
#include "base/thread_pool.h"

namespace herd::cpu {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using AlignedArray = std::unique_ptr<T[], FreeDeleter>;

/// Zeroed and 64-byte aligned, or null when memory is out.
void* allocate_aligned(std::int64_t bytes);

/// A matrix as panels; `panels` is even (the last ones may be padding).
struct Matrix {
  quant::Type type;
  std::int32_t rows, columns, panels;
  std::int64_t panel_bytes;
  std::byte* data;
  std::int32_t next = -1;  // the first matrix of the product that followed its own the last time
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const KernelTable& table, int threads);

  std::string description() const override;
  Counters counters() const override { return counters_; }

  Result<MatrixId> load_matrix(const MatrixSource& source) override;
  std::int64_t matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                            MatrixUse use = MatrixUse::product) const override;
  Result<void*> allocate(std::int64_t bytes) override;
  MemoryMark mark() const override { return {matrices_.size(), buffers_.size()}; }
  void release_to(MemoryMark mark) override;
  Status create_kv(const KvLayout& layout) override;
  Status reserve_scratch(const StepLimits& limits) override;
  std::int64_t scratch_bytes(const StepLimits& limits) const override;
  std::int64_t kv_bytes(const KvLayout& layout) const override { return layout.bytes(); }
  DeviceMemory memory() const override { return {total_memory(), available_memory(), false}; }
  std::int32_t activation_bytes() const override { return 4; }
  void upload(void* to, const void* from, std::int64_t bytes) override;
  Status download(void* to, const void* from, std::int64_t bytes) override;
  void to_activations(const float* x, void* out, std::int64_t n) override;

  StepRows begin_step(const Batch& batch) override;
  void end_step() override { batch_ = nullptr; }

  void embed(const EmbedArgs& args) override;
  void rms_norm(const RmsNormArgs& args) override;
  void matmul(const MatmulArgs& args) override;
  void rope_store(const RopeStoreArgs& args) override;
  void attention(const AttentionArgs& args) override;

  void swiglu(const SwigluArgs& args) override;
  void add(const AddArgs& args) override;
  void attention_scores(const AttentionScoresArgs& args) override;
  void softmax_max(const SoftmaxArgs& args) override;
  void softmax_exp_sum(const SoftmaxArgs& args) override;
  void softmax_normalize(const SoftmaxArgs& args) override;
  void apply_attention(const ApplyAttentionArgs& args) override;

 private:
  struct Scratch {          // floats, per thread unless said otherwise
    std::int64_t packed;    // shared: inputs of a matmul, packed for the tiles
    std::int64_t sums[2];   // shared: of groups of 16 and of 32 inputs, as rows and packed
    std::int64_t unpacked;  // panels of one chunk
    std::int64_t totals;    // outputs of one row block
    std::int64_t query;     // attention's packed queries
    std::int64_t scores;    // attention's scores
  };
  Scratch scratch_sizes(std::int32_t max_rows, std::int32_t max_columns,
                        std::int32_t max_context) const;
  const Matrix& matrix(MatrixId id) const { return matrices_[static_cast<std::size_t>(id.index)]; }

  /// MatmulArgs without the epilogue.
  struct ProductArgs {
    const float* x;
    std::int32_t rows;
    std::int32_t n_weights;
    MatrixId weights[3];
    float* out[3];
    bool add;
  };
  void look_ahead(const ProductArgs& args);
  void rotate(float* x, std::int32_t heads, const RopeStoreArgs& args);
  void store(const RopeStoreArgs& args);
  void products(const ProductArgs& args);
  void sum_inputs(const ProductArgs& args);
  void pack_input(const ProductArgs& args, std::int32_t first, std::int32_t rows, std::int32_t k0,
                  std::int32_t k1);
  const float* sums_of(const Matrix& m, std::int32_t row, bool packed) const;
  void matmul_fused(const ProductArgs& args);
  void matmul_tiled(const ProductArgs& args);
  void pack_inputs(const ProductArgs& args, std::int32_t columns);
  void tiled_panels(const ProductArgs& args, const Matrix& m, float* out, std::int32_t first_panel,
                    std::int32_t n_panels, int thread);
  void attention_tile(const AttentionArgs& args, const BatchSequence& sequence,
                      std::int32_t kv_head, std::int32_t first_row, std::int32_t n_rows,
                      std::int32_t first_head, std::int32_t n_heads, int thread);

  /// Runs body(i) for i in [0, n): on all threads in chunks, or here when the work is too small to
  /// be worth waking anyone.
  template <class Body>
  void for_each(std::int64_t n, std::int64_t cost_each, Body&& body);

  const KernelTable& table_;
  WeightsAhead weights_ahead_;  // the pool's threads ask it what to do while they wait
  KvAhead kv_ahead_;
  ThreadPool pool_;
  Counters counters_;
  std::vector<Matrix> matrices_;
  std::int32_t last_product_ = -1;  // its first matrix
  Arena weights_;                   // a piece for each matrix
  std::vector<AlignedArray<std::byte>> buffers_;

  const Batch* batch_ = nullptr;  // of the step under way
  KvLayout kv_;
  Arena pool_memory_;
  std::byte *keys_ = nullptr, *values_ = nullptr;

  Scratch scratch_ = {};
  AlignedArray<float> packed_;
  struct InputSums {
    std::int32_t group;
    bool wanted;                       // by the product under way
    AlignedArray<float> rows, packed;  // [rows][columns / group]; packed as the inputs are
  };
  InputSums sums_[2] = {{16, false, {}, {}}, {32, false, {}, {}}};
  std::vector<AlignedArray<float>> thread_scratch_;  // unpacked, totals, query, scores in a row
};

}  // namespace herd::cpu
