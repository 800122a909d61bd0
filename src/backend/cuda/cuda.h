// The CUDA backend: packed weights, a paged f16 KV pool, steps that run on one stream without
// waiting for the host, recorded as graphs where they repeat.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/matmul.h"
#include "backend/cuda/step.h"

namespace herd::cuda {

struct FreeDevice {
  void operator()(void* p) const { cudaFree(p); }
};
struct FreePinned {
  void operator()(void* p) const { cudaFreeHost(p); }
};
using DeviceBytes = std::unique_ptr<std::byte, FreeDevice>;
using PinnedBytes = std::unique_ptr<std::byte, FreePinned>;

/// Null when memory is out.
DeviceBytes allocate_device(std::int64_t bytes);
PinnedBytes allocate_pinned(std::int64_t bytes);

/// What one step's batch may hold, and where each part of it lies in the buffers.
struct StepRoom {
  std::int64_t rows = 0, logits = 0, sequences = 0, pages = 0, items = 0;
  bool holds(const StepRoom& other) const;
};

/// What tells apart steps whose launches are the same.
struct StepKey {
  std::int32_t rows = 0;
  bool samples = false;
  auto operator<=>(const StepKey&) const = default;
};

class CudaBackend final : public Backend {
 public:
  ~CudaBackend() override;
  /// Errors: unsupported (no device, an old one), internal.
  Status open(bool check_each_op);

  std::string description() const override { return description_; }
  Counters counters() const override { return counters_; }

  Result<MatrixId> load_matrix(const MatrixSource& source) override;
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
    PackedMatrix packed;
    RawMatrix raw;
    DeviceBytes packed_data, raw_data;
  };
  /// One step on its way: the host writes the next one while the device still reads this one.
  struct InFlight {
    PinnedBytes staging, ids;
    cudaEvent_t copied = nullptr, done = nullptr;
    std::int32_t n_sampled = 0;
  };

  const Matrix& matrix(MatrixId id) const { return matrices_[static_cast<std::size_t>(id.index)]; }
  Status read_rows(const MatrixSource& source, Matrix& m);
  void reserve_workspace(std::int32_t rows, std::int32_t outputs);

  /// Memory of the ops, in bytes, and how many split results and counters it holds.
  struct Scratch {
    std::int64_t partials = 0, counters = 0, sampling = 0, n_partials = 0, n_counters = 0;
  };

  // ---- step.cc ----
  Scratch scratch_for(const StepLimits& limits) const;
  struct StepOffsets;
  static StepOffsets step_offsets(const StepRoom& room);
  StepRoom step_room(const StepLimits& limits) const;
  Status make_step_room(const StepRoom& room);
  void write_step(const Batch& batch, std::int32_t rows, std::byte* to);
  void plan_attention(const Batch& batch);
  void plan_few();
  std::int32_t splits_each(std::int32_t warps) const;
  StepRows bucketed(const Batch& batch) const;
  bool replay_or_record(const StepKey& key);
  void drop_graphs();

  /// Remembers the first error; it comes back from the next call that can return one.
  void note(cudaError_t error, const char* op);
  /// After a launch.
  void launched(const char* op);
  Status wait();
  void settle() { static_cast<void>(wait()); }  // an error is told later

  std::string description_;
  int multiprocessors_ = 0;
  bool wgmma_ = false;  // the device runs code compiled for sm_90a
  bool check_each_op_ = false;
  cudaStream_t stream_ = nullptr;
  Status status_;
  const char* last_op_ = "nothing";
  Counters counters_;

  std::vector<Matrix> matrices_;
  std::vector<DeviceBytes> buffers_;
  PinnedBytes slab_;
  DeviceBytes raw_slab_;

  KvLayout kv_;
  std::int32_t kv_stride_ = 0;
  DeviceBytes keys_, values_;

  DeviceBytes workspace_, partials_, counters_memory_, sample_scratch_;
  std::int64_t workspace_size_ = 0;
  Scratch scratch_;
  StepLimits limits_;

  // The step under way.
  StepRoom room_;
  DeviceBytes step_memory_;
  StepView view_ = {};
  std::array<InFlight, 2> in_flight_;
  std::uint64_t steps_ = 0, sampled_steps_ = 0, read_steps_ = 0;
  std::vector<AttentionItem> few_, many_;
  std::int32_t few_blocks_ = 0, attention_warps_ = 0;
  std::int32_t step_samples_ = 0;  // ids this step chooses

  struct Recorded {
    cudaGraphExec_t graph = nullptr;
    Counters cost;  // of one replay
    bool seen = false;
  };
  std::map<StepKey, Recorded> recorded_;
  StepKey key_;
  bool recording_ = false;
  Counters before_recording_;
};

}  // namespace herd::cuda
