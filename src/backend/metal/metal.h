// The Metal backend: GGUF blocks as they are in shared memory, a paged f16 KV pool, one command
// buffer a step. Ops of one file each encode their dispatches here.
#pragma once

#include <array>
#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/metal/device.h"
#include "backend/metal/kernels/args.h"

namespace herd::metal {

/// All kernels in one text (generated from kernels/).
std::string_view kernel_source();
/// The same compiled ahead (a metallib), or nothing.
std::span<const std::byte> kernel_library();

class MetalBackend final : public Backend {
 public:
  ~MetalBackend() override;
  /// Errors: unsupported (no device), internal (a kernel that is missing).
  Status open(const BackendOptions& options);

  std::string description() const override { return description_; }
  Counters counters() const override { return counters_; }
  std::vector<OpTime> op_times() const override { return op_times_; }

  Result<MatrixId> load_matrix(const MatrixSource& source) override;
  bool reads_mappings() const override { return true; }
  /// Where a matrix's blocks are, for tests.
  const std::byte* blocks_of(MatrixId id) const { return matrix(id).blocks.data; }
  std::int64_t matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                            MatrixUse use = MatrixUse::product) const override;
  Result<void*> allocate(std::int64_t bytes) override;
  MemoryMark mark() const override { return {matrices_.size(), buffers_.size()}; }
  void release_to(MemoryMark mark) override;
  Status create_kv(const KvLayout& layout) override;
  std::int64_t kv_bytes(const KvLayout& layout) const override;
  Status reserve_scratch(const StepLimits& limits) override;
  std::int64_t scratch_bytes(const StepLimits& limits) const override;
  DeviceMemory memory() const override;
  std::int32_t activation_bytes() const override { return 2; }
  void upload(void* to, const void* from, std::int64_t bytes) override;
  Status download(void* to, const void* from, std::int64_t bytes) override;
  void to_activations(const float* x, void* out, std::int64_t n) override;

  StepRows begin_step(const Batch& batch) override;
  void end_step() override;
  void embed(const EmbedArgs& args) override;
  bool norm_adds() const override { return true; }
  void rms_norm(const RmsNormArgs& args) override;
  void matmul(const MatmulArgs& args) override;
  void rope_store(const RopeStoreArgs& args) override;
  void attention(const AttentionArgs& args) override;
  bool samples_on_device() const override { return true; }
  void sample(const SampleArgs& args) override;
  Result<std::span<const TokenId>> sampled() override;

  void swiglu(const SwigluArgs& args) override;
  void add(const AddArgs& args) override;
  void attention_scores(const AttentionScoresArgs& args) override;
  void softmax_max(const SoftmaxArgs& args) override;
  void softmax_exp_sum(const SoftmaxArgs& args) override;
  void softmax_normalize(const SoftmaxArgs& args) override;
  void apply_attention(const ApplyAttentionArgs& args) override;

 private:
  struct Matrix {
    quant::Type type = quant::Type::F32;
    std::int64_t rows = 0, columns = 0, row_bytes = 0;
    Buffer blocks;
    std::shared_ptr<const FileMapping> mapping;  // that the blocks are in, or null
  };
  /// Where a step's arrays lie in its memory, in bytes; `bytes` in all.
  struct StepRoom {
    std::int64_t rows = 0, logits = 0, pages = 0;
    std::int64_t sampling() const { return 0; }
    std::int64_t ids() const { return 32 * logits; }
    std::int64_t positions() const { return ids() + 4 * rows; }
    std::int64_t slots() const { return ids() + 8 * rows; }
    std::int64_t first_pages() const { return ids() + 12 * rows; }
    std::int64_t logit_rows() const { return ids() + 16 * rows; }
    std::int64_t block_table() const { return logit_rows() + 4 * logits; }
    std::int64_t bytes() const { return block_table() + 4 * pages; }
  };
  /// The batch as the GPU reads it: the host writes one while the other may still be read.
  struct StepMemory {
    Buffer buffer;
    std::uint64_t reader = 0;  // the last command buffer that reads it
  };

  /// Ids that a step chose, for the next step and for the host.
  struct Chosen {
    Buffer ids;
    std::int32_t rows = 0;
    std::uint64_t writer = 0;  // the command buffer
  };

  const Matrix& matrix(MatrixId id) const { return matrices_[static_cast<std::size_t>(id.index)]; }
  Status copy(const MatrixSource& source, Matrix& m);
  /// Whether the blocks can be used where they stand in the file's mapping; then `m` has them.
  bool find_in_mapping(const MatrixSource& source, Matrix& m);
  Status check_mapping(const MatrixSource& source, const Matrix& m);
  void release(const Matrix& m);
  /// Memory known to find(); null data when memory is out.
  Buffer take(std::int64_t bytes);
  void give(const Buffer& buffer);
  StepRoom step_room(const StepLimits& limits) const;
  Status make_step_room(const StepRoom& room);
  Status make_products(std::int64_t floats);
  void write_step(const Batch& batch);
  const void* step_part(std::int64_t offset) const { return step_->buffer.data + offset; }

  // ---- dispatch ----
  const Kernel* prepared(const std::string& name);
  void bind(std::uint32_t index, const void* pointer);
  /// Binds pointers (memory of this backend, or null) and the arguments behind them, and runs
  /// threadgroups of at most `threads` threads.
  template <class Args>
  void run(const std::string& kernel, std::initializer_list<const void*> pointers, const Args& args,
           Size groups, std::uint32_t threads) {
    const Kernel* k = begin(kernel, pointers, threads);
    if (k == nullptr) return;
    device_->bind_bytes(static_cast<std::uint32_t>(pointers.size()), &args, sizeof(args));
    device_->dispatch(*k, groups, threads);
  }
  /// One thread for each of n elements.
  template <class Args>
  void run_elements(const std::string& kernel, std::initializer_list<const void*> pointers,
                    const Args& args, std::int64_t n) {
    const std::uint32_t threads = threads_of(kernel, args::kElementThreads);
    if (n <= 0 || !fits(kernel, n)) return;
    run(kernel, pointers, args, {static_cast<std::uint32_t>((n + threads - 1) / threads)}, threads);
  }
  const Kernel* begin(const std::string& kernel, std::initializer_list<const void*> pointers,
                      std::uint32_t threads);
  /// `wanted`, or as many whole simdgroups as the kernel's pipeline allows.
  std::uint32_t threads_of(const std::string& kernel, std::uint32_t wanted);
  bool fits(const std::string& kernel, std::int64_t n);
  void multiply(const Matrix& m, const void* x, std::int32_t rows, void* out, bool add);

  /// After an op: waits where each is timed or checked; the latter looks for what is not finite.
  void done(const char* op, const void* out, std::int64_t rows, std::int64_t columns, bool halves);
  void time(const char* op);
  void note(const Status& status);
  Status wait();

  std::string description_;
  std::unique_ptr<Device> device_;
  std::map<std::string, Kernel, std::less<>> kernels_;
  std::map<const std::byte*, Buffer> memory_;  // by address, that of mapped files too
  Status status_;
  Counters counters_;
  bool check_each_op_ = false, profile_ = false;
  std::vector<OpTime> op_times_;
  std::int32_t rows_ = 0;   // of the step under way
  std::int32_t norms_ = 0;  // of it so far: two a layer

  std::vector<Matrix> matrices_;
  std::vector<Buffer> buffers_;
  KvLayout kv_;
  std::vector<Buffer> keys_, values_;  // [layers]
  Buffer nothing_;                     // stands where a kernel is given no memory
  Buffer sums_;                        // of checksums
  Buffer gate_, up_;                   // f32 products of the feed-forward
  StepRoom room_;
  std::array<StepMemory, 2> steps_;
  StepMemory* step_ = &steps_[0];
  std::array<Chosen, 2> chosen_;
  std::uint64_t n_steps_ = 0, n_sampled_ = 0, n_read_ = 0;
  bool step_samples_ = false;
};

}  // namespace herd::metal
