// Every op's launch, beside its kernel in the .cu file of its name. All are asynchronous.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/backend.h"
#include "backend/cuda/step.h"

namespace herd::cuda {

/// Raw blocks of a matrix, for lookups.
struct RawMatrix {
  quant::Type type = quant::Type::F32;
  int rows = 0, columns = 0;
  const void* data = nullptr;
  std::int64_t row_bytes = 0;
};

/// One layer's part of the pool: [page][kv_head][page_size * stride] each, in pool_offset() order.
struct LayerPool {
  __half* keys;
  __half* values;
  std::int32_t kv_heads, head_size, page_size;
  std::int32_t stride;  // head_size rounded up to what attention is compiled for
};

void launch_embed(const RawMatrix& table, const StepView& step, float* out, int rows,
                  cudaStream_t stream);
cudaError_t launch_rms_norm(const RmsNormArgs& args, const StepView& step, cudaStream_t stream);
cudaError_t launch_rope_store(const RopeStoreArgs& args, const LayerPool& pool,
                              const StepView& step, cudaStream_t stream);
void launch_to_half(const float* x, __half* out, std::int64_t n, cudaStream_t stream);

struct AttentionLaunch {
  const __half* q;
  __half* out;
  LayerPool pool;
  StepView step;
  std::int32_t heads;
  float scale_log2;        // scale * log2(e)
  float* partials;         // [slots][kv_heads][partial_floats]
  std::int32_t* counters;  // [tiles][kv_heads], zero between steps
  bool wgmma;              // the device runs code compiled for sm_90a
};
/// Head sizes attention is compiled for: the least that holds `head_size`, or 0.
int attention_stride(int head_size);
__host__ __device__ std::int64_t partial_floats(int stride);
/// Once, before the first launch.
cudaError_t prepare_attention();
/// Warps that run at once on the device.
int attention_warps(int stride, int multiprocessors);
cudaError_t launch_attention_few(const AttentionLaunch& launch, int blocks, cudaStream_t stream);
cudaError_t launch_attention_many(const AttentionLaunch& launch, int items, cudaStream_t stream);
/// The same for strides of 64 and 128, in attention_hopper.cu; REQUIRES a device with wgmma.
cudaError_t prepare_attention_hopper(int stride);
cudaError_t launch_attention_hopper(const AttentionLaunch& launch, int items, cudaStream_t stream);

/// Scratch of launch_sample, in bytes.
std::int64_t sample_scratch_bytes(int rows);
cudaError_t launch_sample(const SampleArgs& args, const StepView& step, void* scratch,
                          cudaStream_t stream);

void launch_swiglu(const SwigluArgs& args, cudaStream_t stream);
void launch_add(const AddArgs& args, cudaStream_t stream);
void launch_attention_scores(const AttentionScoresArgs& args, const std::int32_t* start_on_device,
                             cudaStream_t stream);
void launch_softmax_max(const SoftmaxArgs& args, cudaStream_t stream);
void launch_softmax_exp_sum(const SoftmaxArgs& args, cudaStream_t stream);
void launch_softmax_normalize(const SoftmaxArgs& args, cudaStream_t stream);
void launch_apply_attention(const ApplyAttentionArgs& args, cudaStream_t stream);

}  // namespace herd::cuda
