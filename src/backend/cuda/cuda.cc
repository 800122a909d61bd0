// The device, its memory, and the ops handed to their launches.
#include "backend/cuda/cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/environment.h"

namespace herd {
namespace cuda {

DeviceBytes allocate_device(std::int64_t bytes) {
  void* p = nullptr;
  if (cudaMalloc(&p, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 256))) == cudaSuccess)
    return DeviceBytes(static_cast<std::byte*>(p));
  cudaGetLastError();  // out of memory is told by the null pointer
  return nullptr;
}
PinnedBytes allocate_pinned(std::int64_t bytes) {
  void* p = nullptr;
  if (cudaMallocHost(&p, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 256))) ==
      cudaSuccess)
    return PinnedBytes(static_cast<std::byte*>(p));
  cudaGetLastError();
  return nullptr;
}

namespace {

constexpr std::int64_t kSlabBytes = std::int64_t{16} << 20;  // raw weights on their way
constexpr std::int64_t kPackedRows = 64;                     // pack() takes multiples of it

Error no_memory(std::string_view what, std::int64_t bytes) {
  return {Code::resource_exhausted, fmt::format("{}: no device memory for {} bytes", what, bytes)};
}

std::int64_t slab_rows(std::int64_t row_bytes) {
  return std::max<std::int64_t>(1, kSlabBytes / row_bytes / kPackedRows) * kPackedRows;
}

}  // namespace

// ---- the device ----

Status CudaBackend::open(bool check_each_op) {
  check_each_op_ = check_each_op;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    cudaGetLastError();
    return {Code::unsupported,
            fmt::format("device cuda: no CUDA device here ({})",
                        error == cudaSuccess ? "none found" : cudaGetErrorString(error))};
  }
  cudaDeviceProp properties = {};
  note(cudaGetDeviceProperties(&properties, 0), "device properties");
  if (status_.ok() && properties.major < 8)
    return {Code::unsupported,
            fmt::format("device cuda: {} has compute capability {}.{}, 8.0 is the least",
                        properties.name, properties.major, properties.minor)};
  multiprocessors_ = properties.multiProcessorCount;
  description_ = fmt::format("cuda {}, compute capability {}.{}", properties.name, properties.major,
                             properties.minor);
  note(cudaSetDevice(0), "open");
  note(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  const cudaError_t prepared = prepare_attention();
  if (prepared == cudaErrorNoKernelImageForDevice || prepared == cudaErrorInvalidDeviceFunction)
    return {Code::unsupported,
            fmt::format("device cuda: this build has no kernels for {} (compute capability {}.{}); "
                        "build with HERD_CUDA_ARCHS={}{}",
                        properties.name, properties.major, properties.minor, properties.major,
                        properties.minor)};
  note(prepared, "attention's shared memory");
  note(runs_wgmma(wgmma_), "open");
  for (InFlight& step : in_flight_) {
    note(cudaEventCreateWithFlags(&step.copied, cudaEventDisableTiming), "event");
    note(cudaEventCreateWithFlags(&step.done, cudaEventDisableTiming), "event");
  }
  return status_;
}

CudaBackend::~CudaBackend() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  drop_graphs();
  for (const InFlight& step : in_flight_) {
    if (step.copied != nullptr) cudaEventDestroy(step.copied);
    if (step.done != nullptr) cudaEventDestroy(step.done);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

DeviceMemory CudaBackend::memory() const {
  std::size_t available = 0, total = 0;
  if (cudaMemGetInfo(&available, &total) != cudaSuccess) cudaGetLastError();
  return {static_cast<std::int64_t>(total), static_cast<std::int64_t>(available), true};
}

void CudaBackend::note(cudaError_t error, const char* op) {
  if (error == cudaSuccess || !status_.ok()) return;
  status_ = {error == cudaErrorMemoryAllocation ? Code::resource_exhausted : Code::internal,
             fmt::format("cuda: {}: {}", op, cudaGetErrorString(error))};
}

void CudaBackend::launched(const char* op) {
  last_op_ = op;
  note(cudaGetLastError(), op);
  if (check_each_op_ && !recording_) note(cudaStreamSynchronize(stream_), op);
}

Status CudaBackend::wait() {
  const cudaError_t error = cudaStreamSynchronize(stream_);
  if (error != cudaSuccess && status_.ok())
    status_ = {Code::internal,
               fmt::format("cuda: {} in a step that ended with {}; HERD_CUDA_CHECK=1 names the op",
                           cudaGetErrorString(error), last_op_)};
  return status_;
}

// ---- memory ----

std::int64_t CudaBackend::matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                                       MatrixUse use) const {
  std::int64_t bytes = 0;
  if (use != MatrixUse::lookup) bytes += packed_bytes(type, rows, columns);
  if (use != MatrixUse::product) bytes += rows * quant::row_bytes(type, columns);
  return bytes;
}

Result<MatrixId> CudaBackend::load_matrix(const MatrixSource& source) {
  const std::int64_t limit = std::int64_t{1} << 31;
  if (source.rows < 1 || source.columns < 1 || source.rows >= limit || source.columns >= limit)
    return Error{Code::out_of_range, fmt::format("matrix {}: {} x {} is outside 1..2^31-1",
                                                 source.name, source.rows, source.columns)};
  const bool product = source.use != MatrixUse::lookup, lookup = source.use != MatrixUse::product;
  if (product && source.columns % 32 != 0)
    return Error{Code::unsupported,
                 fmt::format("matrix {}: {} columns, the cuda backend takes multiples of 32",
                             source.name, source.columns)};
  const std::int64_t row_bytes = quant::row_bytes(source.type, source.columns);
  Matrix m;
  m.packed.type = m.raw.type = source.type;
  m.packed.rows = m.raw.rows = static_cast<int>(source.rows);
  m.packed.columns = m.raw.columns = static_cast<int>(source.columns);
  m.raw.row_bytes = row_bytes;
  if (product) {
    m.packed.bytes = packed_bytes(source.type, source.rows, source.columns);
    m.packed_data = allocate_device(m.packed.bytes);
    if (m.packed_data == nullptr) return no_memory(source.name, m.packed.bytes);
    m.packed.data = m.packed_data.get();
  }
  if (lookup) {
    m.raw_data = allocate_device(source.rows * row_bytes);
    if (m.raw_data == nullptr) return no_memory(source.name, source.rows * row_bytes);
    m.raw.data = m.raw_data.get();
  }
  if (Status status = read_rows(source, m); !status.ok()) return status.error();
  m.packed.overflow = nullptr;
  matrices_.push_back(std::move(m));
  return MatrixId{static_cast<std::int32_t>(matrices_.size()) - 1};
}

/// Slab by slab through pinned memory.
Status CudaBackend::read_rows(const MatrixSource& source, Matrix& m) {
  const std::int64_t row_bytes = m.raw.row_bytes, rows = slab_rows(row_bytes);
  const std::int64_t bytes = std::max(kSlabBytes, rows * row_bytes);
  if (slab_ == nullptr || bytes > kSlabBytes) {
    slab_ = allocate_pinned(bytes);
    raw_slab_ = allocate_device(bytes + 256);
    if (slab_ == nullptr || raw_slab_ == nullptr) return no_memory("loading", bytes);
  }
  auto* overflow = reinterpret_cast<unsigned*>(raw_slab_.get() + bytes);
  note(cudaMemsetAsync(overflow, 0, 4, stream_), "loading");
  m.packed.overflow = overflow;
  for (std::int64_t first = 0; first < source.rows; first += rows) {
    const std::int64_t n = std::min(rows, source.rows - first);
    const auto size = static_cast<std::size_t>(n * row_bytes);
    if (Status status = wait(); !status.ok()) return status;  // the slab is free again
    if (Status status = source.read(first, n, {slab_.get(), size}); !status.ok()) return status;
    note(cudaMemcpyAsync(raw_slab_.get(), slab_.get(), size, cudaMemcpyHostToDevice, stream_),
         "loading");
    if (m.packed.data != nullptr)
      note(pack(m.packed, raw_slab_.get(), static_cast<int>(first), static_cast<int>(n), stream_),
           "packing");
    if (m.raw_data != nullptr)
      note(cudaMemcpyAsync(m.raw_data.get() + first * row_bytes, raw_slab_.get(), size,
                           cudaMemcpyDeviceToDevice, stream_),
           "loading");
  }
  unsigned overflowed = 0;
  if (Status status = download(&overflowed, overflow, 4); !status.ok()) return status;
  if (bytes > kSlabBytes) slab_.reset(), raw_slab_.reset();
  if (overflowed == 0) return {};
  return {Code::unsupported,
          fmt::format("matrix {}: a value is beyond 65504, the largest the cuda backend holds",
                      source.name)};
}

Result<void*> CudaBackend::allocate(std::int64_t bytes) {
  DeviceBytes buffer = allocate_device(bytes);
  if (buffer == nullptr) return no_memory("buffer", bytes);
  note(cudaMemsetAsync(buffer.get(), 0, static_cast<std::size_t>(bytes), stream_), "allocate");
  buffers_.push_back(std::move(buffer));
  return static_cast<void*>(buffers_.back().get());
}

void CudaBackend::release_to(MemoryMark mark) {
  settle();
  while (matrices_.size() > mark.matrices) matrices_.pop_back();
  while (buffers_.size() > mark.buffers) buffers_.pop_back();
}

std::int64_t CudaBackend::kv_bytes(const KvLayout& l) const {
  const std::int64_t stride = std::max(attention_stride(l.head_size), l.head_size);
  return std::int64_t{4} * l.layers * l.pages * l.page_size * l.kv_heads * stride;
}

Status CudaBackend::create_kv(const KvLayout& l) {
  if (l.type != KvType::f16)
    return {Code::unsupported, "KV type f32: the cuda backend keeps keys and values as f16"};
  if (l.page_size < kGroupedPages || l.page_size % kGroupedPages != 0)
    return {Code::out_of_range, fmt::format("page size {}: the cuda backend takes multiples of {}",
                                            l.page_size, kGroupedPages)};
  kv_stride_ = attention_stride(l.head_size);
  if (kv_stride_ == 0 || l.head_size % 2 != 0)
    return {Code::unsupported, fmt::format("head size {}: the cuda backend takes even ones up to "
                                           "128",
                                           l.head_size)};
  attention_warps_ = attention_warps(kv_stride_, multiprocessors_);
  const std::int64_t bytes = kv_bytes(l) / 2;
  keys_ = allocate_device(bytes);
  values_ = allocate_device(bytes);
  if (keys_ == nullptr || values_ == nullptr) return no_memory("KV pool", 2 * bytes);
  note(cudaMemsetAsync(keys_.get(), 0, static_cast<std::size_t>(bytes), stream_), "KV pool");
  note(cudaMemsetAsync(values_.get(), 0, static_cast<std::size_t>(bytes), stream_), "KV pool");
  kv_ = l;
  return status_;
}

void CudaBackend::upload(void* to, const void* from, std::int64_t bytes) {
  note(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream_),
       "upload");
  settle();  // `from` is the caller's again
}

Status CudaBackend::download(void* to, const void* from, std::int64_t bytes) {
  note(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
       last_op_);
  return wait();
}

// ---- ops ----

void CudaBackend::to_activations(const float* x, void* out, std::int64_t n) {
  launch_to_half(x, static_cast<__half*>(out), n, stream_);
  launched("to_activations");
}

void CudaBackend::embed(const EmbedArgs& args) {
  launch_embed(matrix(args.table).raw, view_, args.out, args.rows, stream_);
  launched("embed");
}

void CudaBackend::rms_norm(const RmsNormArgs& args) {
  note(launch_rms_norm(args, view_, stream_), "rms_norm");
  launched("rms_norm");
}

/// The products' memory, for so many rows of gate and up.
void CudaBackend::reserve_workspace(std::int32_t rows, std::int32_t outputs) {
  const auto need = static_cast<std::int64_t>(workspace_bytes(rows, outputs));
  if (need <= workspace_size_) return;
  settle();
  drop_graphs();
  workspace_ = allocate_device(need);
  workspace_size_ = workspace_ == nullptr ? 0 : need;
  if (workspace_ == nullptr) return note(cudaErrorMemoryAllocation, "matmul's workspace");
  note(cudaMemsetAsync(workspace_.get(), 0, static_cast<std::size_t>(need), stream_), "matmul");
}

void CudaBackend::matmul(const MatmulArgs& args) {
  if (args.rows == 0) return;
  MatmulCall call;
  call.n_weights = args.n_weights;
  call.x = static_cast<const __half*>(args.x);
  call.rows = args.rows;
  for (int i = 0; i < args.n_weights; ++i) {
    const PackedMatrix& m = matrix(args.weights[i]).packed;
    call.weights[i] = &m;
    call.out[i] = args.out[i];
    counters_.weight_bytes += static_cast<std::uint64_t>(m.bytes);
    counters_.matmul_flops += std::uint64_t{2} * static_cast<std::uint64_t>(args.rows) *
                              static_cast<std::uint64_t>(m.rows) *
                              static_cast<std::uint64_t>(m.columns);
    ++counters_.matmuls;
  }
  call.epilogue = args.epilogue == herd::Epilogue::store ? Epilogue::F32
                  : args.epilogue == herd::Epilogue::add ? Epilogue::F32_ADD
                                                         : Epilogue::SWIGLU_F16;
  const bool swiglu = call.epilogue == Epilogue::SWIGLU_F16;
  reserve_workspace(args.rows, swiglu ? call.weights[0]->rows : 0);  // there, within a model
  call.workspace = workspace_.get();
  call.workspace_size = static_cast<std::size_t>(workspace_size_);
  note(cuda::matmul(call, stream_), "matmul");
  launched("matmul");
}

void CudaBackend::rope_store(const RopeStoreArgs& args) {
  RopeStoreArgs a = args;
  const std::int64_t layer = kv_bytes(kv_) / 2 / std::max(1, kv_.layers) * a.layer;
  const LayerPool pool = {reinterpret_cast<__half*>(keys_.get() + layer),
                          reinterpret_cast<__half*>(values_.get() + layer),
                          kv_.kv_heads,
                          kv_.head_size,
                          kv_.page_size,
                          kv_stride_};
  if (a.v != nullptr) a.kv_heads = kv_.kv_heads, a.head_size = kv_.head_size;
  note(launch_rope_store(a, pool, view_, stream_), "rope_store");
  launched("rope_store");
}

void CudaBackend::attention(const AttentionArgs& args) {
  const std::int64_t layer = kv_bytes(kv_) / 2 / std::max(1, kv_.layers) * args.layer;
  const AttentionLaunch launch = {static_cast<const __half*>(args.q),
                                  static_cast<__half*>(args.out),
                                  {reinterpret_cast<__half*>(keys_.get() + layer),
                                   reinterpret_cast<__half*>(values_.get() + layer), kv_.kv_heads,
                                   kv_.head_size, kv_.page_size, kv_stride_},
                                  view_,
                                  args.heads,
                                  args.scale * 1.44269504088896341f,
                                  reinterpret_cast<float*>(partials_.get()),
                                  reinterpret_cast<std::int32_t*>(counters_memory_.get()),
                                  wgmma_};
  if (few_blocks_ > 0) note(launch_attention_few(launch, few_blocks_, stream_), "attention");
  launched("attention");
  if (!many_.empty())
    note(launch_attention_many(launch, static_cast<std::int32_t>(many_.size()), stream_),
         "attention");
  launched("attention");
}

void CudaBackend::sample(const SampleArgs& args) {
  note(launch_sample(args, view_, sample_scratch_.get(), stream_), "sample");
  launched("sample");
}

void CudaBackend::swiglu(const SwigluArgs& args) {
  launch_swiglu(args, stream_);
  launched("swiglu");
}
void CudaBackend::add(const AddArgs& args) {
  launch_add(args, stream_);
  launched("add");
}
void CudaBackend::attention_scores(const AttentionScoresArgs& args) {
  const std::int64_t bytes = std::int64_t{4} * args.batch;
  const DeviceBytes start = allocate_device(bytes);
  if (start == nullptr) return note(cudaErrorMemoryAllocation, "attention_scores");
  upload(start.get(), args.start, bytes);
  launch_attention_scores(args, reinterpret_cast<const std::int32_t*>(start.get()), stream_);
  launched("attention_scores");
  settle();
}
void CudaBackend::softmax_max(const SoftmaxArgs& args) {
  launch_softmax_max(args, stream_);
  launched("softmax_max");
}
void CudaBackend::softmax_exp_sum(const SoftmaxArgs& args) {
  launch_softmax_exp_sum(args, stream_);
  launched("softmax_exp_sum");
}
void CudaBackend::softmax_normalize(const SoftmaxArgs& args) {
  launch_softmax_normalize(args, stream_);
  launched("softmax_normalize");
}
void CudaBackend::apply_attention(const ApplyAttentionArgs& args) {
  launch_apply_attention(args, stream_);
  launched("apply_attention");
}

}  // namespace cuda

Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendOptions& options) {
  auto backend = std::make_unique<cuda::CudaBackend>();
  if (Status status = backend->open(options.check_each_op || environment_flag("HERD_CUDA_CHECK"));
      !status.ok())
    return status.error();
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace herd
