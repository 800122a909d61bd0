// The cpu backend as if it were a device that chooses tokens itself: ids come back one step late,
// and by then the logits are the next step's.
#pragma once

#include <gtest/gtest.h>

#include <deque>

#include "backend/backend.h"
#include "sample/sampler.h"

namespace herd::test {

class SamplingBackend : public Backend {
 public:
  explicit SamplingBackend(std::unique_ptr<Backend> cpu) : cpu_(std::move(cpu)) {}
  ~SamplingBackend() override { EXPECT_TRUE(open_.empty()) << "choices were never asked for"; }

  bool samples_on_device() const override { return true; }
  StepRows begin_step(const Batch& batch) override {
    EXPECT_LE(open_.size(), 1u) << "a third step is opened";
    batch_ = batch;
    for (TokenId& id : batch_.ids)
      if (id < 0) id = std::max(0, latest_.at(static_cast<std::size_t>(-1 - id)));
    return cpu_->begin_step(batch_);
  }
  void sample(const SampleArgs& args) override {
    const auto vocab = static_cast<std::size_t>(args.vocab);
    Sampler sampler(args.vocab);
    latest_.clear();
    for (std::size_t i = 0; i < batch_.sampling.size(); ++i) {
      const SamplingRow& row = batch_.sampling[i];
      SamplingParams p;
      p.temperature = row.temperature, p.top_k = row.top_k, p.top_p = row.top_p;
      p.min_p = row.min_p, p.seed = row.seed;
      const auto choice =
          sampler.sample(std::span(args.logits + i * vocab, vocab), p, {}, row.position, false);
      latest_.push_back(choice.ok() ? choice->id : -1);
    }
    open_.push_back(latest_);
  }
  Result<std::span<const TokenId>> sampled() override {
    if (open_.empty()) return Error{Code::internal, "no step is open"};
    read_ = std::move(open_.front());
    open_.pop_front();
    ++reads;
    late_reads += open_.empty() ? 0 : 1;
    return std::span<const TokenId>(read_);
  }
  int reads = 0, late_reads = 0;  // late: with the next step already on its way

  // ---- the rest is the cpu's ----
  std::string description() const override { return cpu_->description(); }
  Counters counters() const override { return cpu_->counters(); }
  Result<MatrixId> load_matrix(const MatrixSource& s) override { return cpu_->load_matrix(s); }
  std::int64_t matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                            MatrixUse use) const override {
    return cpu_->matrix_bytes(type, rows, columns, use);
  }
  Result<void*> allocate(std::int64_t bytes) override { return cpu_->allocate(bytes); }
  MemoryMark mark() const override { return cpu_->mark(); }
  void release_to(MemoryMark mark) override { cpu_->release_to(mark); }
  Status create_kv(const KvLayout& layout) override { return cpu_->create_kv(layout); }
  std::int64_t kv_bytes(const KvLayout& layout) const override { return cpu_->kv_bytes(layout); }
  Status reserve_scratch(const StepLimits& l) override { return cpu_->reserve_scratch(l); }
  std::int64_t scratch_bytes(const StepLimits& l) const override { return cpu_->scratch_bytes(l); }
  DeviceMemory memory() const override { return cpu_->memory(); }
  std::int32_t activation_bytes() const override { return cpu_->activation_bytes(); }
  void upload(void* to, const void* from, std::int64_t n) override { cpu_->upload(to, from, n); }
  Status download(void* to, const void* from, std::int64_t n) override {
    return cpu_->download(to, from, n);
  }
  void to_activations(const float* x, void* out, std::int64_t n) override {
    cpu_->to_activations(x, out, n);
  }
  void end_step() override { cpu_->end_step(); }
  void embed(const EmbedArgs& args) override { cpu_->embed(args); }
  void rms_norm(const RmsNormArgs& args) override { cpu_->rms_norm(args); }
  void matmul(const MatmulArgs& args) override { cpu_->matmul(args); }
  void rope_store(const RopeStoreArgs& args) override { cpu_->rope_store(args); }
  void attention(const AttentionArgs& args) override { cpu_->attention(args); }
  void swiglu(const SwigluArgs& args) override { cpu_->swiglu(args); }
  void add(const AddArgs& args) override { cpu_->add(args); }
  void attention_scores(const AttentionScoresArgs& args) override { cpu_->attention_scores(args); }
  void softmax_max(const SoftmaxArgs& args) override { cpu_->softmax_max(args); }
  void softmax_exp_sum(const SoftmaxArgs& args) override { cpu_->softmax_exp_sum(args); }
  void softmax_normalize(const SoftmaxArgs& args) override { cpu_->softmax_normalize(args); }
  void apply_attention(const ApplyAttentionArgs& args) override { cpu_->apply_attention(args); }

 private:
  std::unique_ptr<Backend> cpu_;
  Batch batch_;  // of the step, with the ids that were chosen
  std::vector<TokenId> latest_, read_;
  std::deque<std::vector<TokenId>> open_;
};

}  // namespace herd::test
