// The CPU backend: packed weights, a paged KV pool, and ops shared out between threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/ahead.h"
#include "backend/cpu/arena.h"
#include "backend/cpu/division.h"
#include "backend/cpu/halves.h"
#include "backend/cpu/kv_pool.h"
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

/// Up to here (128 KiB, with the packed ones a quarter of a second-level cache) inputs of few rows
/// are prepared by every thread for itself.
inline constexpr std::int64_t kOwnInputs = 32 << 10;

/// Zeroed and 64-byte aligned, or null when memory is out.
void* allocate_aligned(std::int64_t bytes);

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
    std::int64_t inputs;    // shared: inputs of a product
    std::int64_t packed;    // shared: those of them that are packed as floats
    std::int64_t unpacked;  // panels of one chunk
    std::int64_t totals;    // outputs of one row block
    std::int64_t query;     // attention's packed queries
    std::int64_t scores;    // attention's scores
    std::int64_t halves;    // shared: scores of a task whose halves are two threads', of each
    std::int64_t own;       // inputs that a thread prepares for itself

    static std::int64_t whole(std::int64_t n) { return (n + 15) / 16 * 16; }  // cache lines
    /// What `n` inputs take as a RoundedRun.
    static std::int64_t rounded(std::int64_t n) {
      std::int64_t floats = whole(n) + whole(n / kRoundGroup);
      for (int group : kSumGroups) floats += whole(n / group) + whole(2 * (n / group));
      return floats;
    }
    std::int64_t shared(int threads) const {
      return whole(packed) + rounded(inputs) + threads / 2 * whole(halves);
    }
    std::int64_t own_inputs() const { return 2 * whole(own) + rounded(own); }  // normed and packed
    std::int64_t each() const { return unpacked + totals + query + scores + own_inputs(); }
  };
  Scratch scratch_sizes(std::int32_t max_rows, std::int32_t max_columns,
                        std::int32_t max_context) const;
  const Matrix& matrix(MatrixId id) const { return matrices_[static_cast<std::size_t>(id.index)]; }

  /// Inputs of a product as its kernels take them.
  struct Inputs {
    const float* x = nullptr;  // [rows][columns]
    float* packed = nullptr;   // the same, packed for the kernels that take rows side by side
    RoundedRun rounded = {};   // the same for weights of codes, a run of rows after the other
    float* normed = nullptr;   // [rows][columns] of a thread's own
  };
  /// What the matrices of a product read of their inputs.
  struct Wanted {
    bool values, rounded;  // weights are values, codes
    GroupSums of_groups;
  };
  struct ProductArgs {
    Product product;
    std::int32_t rows, columns;
    Inputs in;  // shared
    Wanted wanted;
    RmsNormArgs norm;  // still to be done, of what in.x stands for; x is null if none
    float* out[kMostMatrices];
    Epilogue epilogue;
  };
  /// All that threads share of a product of few rows, held by value: see ThreadPool::run.
  struct FusedWork {
    Division now, next;
    std::uint64_t number;  // of the product
    bool own_inputs;       // every thread prepares the inputs for itself
    bool kept;             // weights asked for before are still in the threads' caches
    ProductArgs args;
    KvAhead::ThreadFetch* kv;
  };
  /// What the two halves of a task hand over.
  struct alignas(64) HalfTask {
    static constexpr int kFree = 0, kTaken = 1, kScored = 2;
    std::atomic<int> state{kFree};
    float* scores = nullptr;  // [queries][score_stride]
    float sums[kMaxTileRows] = {};
  };
  /// One task of attention: heads of one sequence that read the same kv head.
  struct AttentionTask {
    const BatchSequence* sequence;
    std::int32_t kv_head;
    std::int32_t first_row, rows;    // of the sequence
    std::int32_t first_head, heads;  // of those that read kv_head
    AttentionPart part = AttentionPart::whole;
    HalfTask* half = nullptr;  // what its halves share, unless it is whole
  };
  /// All that threads share of attention, held by value: see ThreadPool::run.
  struct AttentionWork {
    AttentionArgs args;
    RopeStoreArgs rope;  // still to be done, each task's part of it; q is null if none
    std::int32_t group, tile_rows, tile_heads, head_pieces;
  };
  std::int32_t tasks_of(const AttentionWork& work, const BatchSequence& sequence) const;
  AttentionTask attention_task(const AttentionWork& work, std::int32_t task) const;
  void ask_for_heads(const AttentionWork& work, const AttentionTask& task) const;
  void attention_unit(const AttentionWork& work, const TaskHalves::Unit& unit, int thread);
  void attention_tile(const AttentionWork& work, const AttentionTask& task, int thread);
  bool left_to_attention(const RopeStoreArgs& args) const;
  void rotate_heads(float* x, std::int32_t heads, std::int64_t row,
                    const RopeStoreArgs& args) const;
  void store_head(std::int64_t row, std::int32_t head, const RopeStoreArgs& args) const;
  void norm_rows(const RmsNormArgs& args);
  void norm_row(const RmsNormArgs& args, std::int64_t row, float* out) const;
  void learn_order(const Product& product);
  static void add_wanted(quant::Type type, Wanted& wanted);
  static RoundedRun take_rounded(float*& at, std::int64_t inputs);
  static RoundedRun run_at(const RoundedRun& all, std::int64_t first_row, std::int64_t columns);
  void round_run(const ProductArgs& args, const Inputs& in, std::int32_t first, std::int32_t rows,
                 std::int32_t k0, std::int32_t k1) const;
  static void ask_for_inputs(const ProductArgs& args);
  void prepare_own(const ProductArgs& args, int thread);
  void prepare_shared(const ProductArgs& args, bool fused);
  void matmul_fused(const ProductArgs& args);
  WeightsAhead::Share share_of(const Division& d, int thread) const;
  void fused_begin(const FusedWork& work, int thread);
  void fused_run(const FusedWork& work, const Division::Run& run, bool own, int thread);
  void coded_panels(const ProductArgs& args, const Inputs& in, const Matrix& m, float* out,
                    std::int32_t first_panel, std::int32_t n_panels, Fetch* weights,
                    Fetch* fetch) const;
  void matmul_tiled(const ProductArgs& args);
  void tiled_panels(const ProductArgs& args, const Matrix& m, float* out, std::int32_t first_panel,
                    std::int32_t n_panels, int thread);

  /// Runs body(i) for i in [0, n): on all threads in chunks, or here when the work is too small to
  /// be worth waking anyone.
  template <class Body>
  void for_each(std::int64_t n, std::int64_t cost_each, Body&& body);

  const KernelTable& table_;
  WeightsAhead weights_ahead_;  // the pool's threads ask it what to do while they wait
  ThreadPool pool_;
  std::vector<Matrix> matrices_;
  Arena weights_;  // a piece for each matrix
  std::vector<AlignedArray<std::byte>> buffers_;

  KvPool kv_;
  Arena pool_memory_;

  Scratch scratch_ = {};
  AlignedArray<float> shared_scratch_;  // packed, rounded
  Inputs shared_;
  // Unpacked, totals, query, scores, own inputs, in a row.
  std::vector<AlignedArray<float>> thread_scratch_;
  struct alignas(64) OwnInputs {
    Inputs in;
  };
  std::vector<OwnInputs> own_;        // of each thread
  std::vector<HalfTask> half_tasks_;  // [threads / 2]

  // What every op writes, apart from what all threads read.
  alignas(64) const Batch* batch_ = nullptr;  // of the step under way
  KvAhead kv_ahead_;
  Counters counters_;
  Product last_product_;
  std::int64_t attended_bytes_ = 0;  // keys and values that a thread has read since then
  RmsNormArgs norm_ = {};            // left to the product that comes next; x is null if none
  RopeStoreArgs rope_ = {};          // left to the attention that comes next; q is null if none
};

}  // namespace herd::cpu
