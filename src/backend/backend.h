// What a device must do for the forward pass: hold weights, hold the KV pool, and run about ten
// named ops. Every op takes one plain struct. The model above knows nothing else of a device.
//
// A step is begin_step(batch), ops, end_step(). What the ops need to know of the batch (ids,
// positions, slots, pages, wanted rows) the backend takes once, in begin_step; between there and
// sampled() or download() nothing is waited for.
//
// Pointers in these structs are memory of the backend (from allocate()); only `cpu` and
// `reference` may also be handed ordinary host memory. `float*` is f32: the residual stream, norms
// and logits. `void*` is an activation, what feeds a matrix product or attention: in the backend's
// own type of activation_bytes() each (f32 on cpu and reference, f16 on cuda).
// Numerics: docs/numerics.md, op by op. Thread safety: one caller at a time per backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "core/batch.h"
#include "herd/status.h"
#include "herd/types.h"
#include "quant/types.h"

namespace herd {

/// What a matrix is for: products with activations, embed's rows, or both (tied embeddings).
enum class MatrixUse { product, lookup, both };

/// A weight matrix handed to a backend: `rows` outputs by `columns` inputs.
struct MatrixSource {
  std::string_view name;
  quant::Type type = quant::Type::F32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;  // a multiple of the type's block
  /// Reads the raw blocks of rows [first, first + count) into `out` (count * row_bytes).
  std::function<Status(std::int64_t first, std::int64_t count, std::span<std::byte> out)> read;
  MatrixUse use = MatrixUse::both;
  // Where the blocks stand as the file has them, or null; only for backends that read mappings.
  std::shared_ptr<const FileMapping> mapping = nullptr;
  std::uint64_t offset = 0;  // of the blocks in it
};

/// A matrix a backend owns; valid as long as the backend.
struct MatrixId {
  std::int32_t index = -1;

  friend bool operator==(MatrixId, MatrixId) = default;
};

/// The paged pool of keys and values, and the bytes one token takes in it.
struct KvLayout {
  std::int32_t layers = 0;
  std::int32_t kv_heads = 0;
  std::int32_t head_size = 0;
  std::int32_t page_size = 32;  // positions per page, a multiple of 32
  std::int32_t pages = 0;
  KvType type = KvType::f16;

  /// Values are kept in rows of whole 16-lane vectors.
  std::int32_t value_stride() const { return (head_size + 15) / 16 * 16; }
  /// One position's key and value of one head; KvType says how they are kept.
  std::int64_t key_bytes() const {
    return type == KvType::f16 ? std::int64_t{2} * head_size + 4 : std::int64_t{4} * head_size;
  }
  std::int64_t value_bytes() const {
    return std::int64_t{type == KvType::f16 ? 2 : 4} * value_stride();
  }
  std::int64_t bytes_per_token() const {
    return std::int64_t{1} * layers * kv_heads * (key_bytes() + value_bytes());
  }
  std::int64_t bytes() const { return bytes_per_token() * page_size * pages; }
};

/// The largest step a backend must be ready for.
struct StepLimits {
  std::int32_t max_rows = 0;
  std::int32_t max_columns = 0;  // inputs of the widest matrix
  std::int32_t max_context = 0;  // positions of the longest sequence
  std::int32_t max_logits = 0;   // the rest matters to backends that keep a step's data
  std::int32_t max_sequences = 0;
  std::int32_t vocab = 0;
  std::int32_t heads = 0, kv_heads = 0, head_size = 0;
};

/// `separate`: not the memory that programs run in.
struct DeviceMemory {
  std::int64_t total = 0, available = 0;  // bytes; 0 when the system does not say
  bool separate = false;
};

/// How much a backend held at some moment.
struct MemoryMark {
  std::size_t matrices = 0, buffers = 0;
};

/// What a step costs, counted where it happens. Monotonic; take differences.
struct Counters {
  std::uint64_t weight_bytes = 0;  // weight bytes streamed from memory by matmuls
  std::uint64_t matmul_flops = 0;  // 2 * rows * outputs * inputs
  std::uint64_t matmuls = 0;
};

/// The rows that the ops of a step must be given: those of the batch, or a few more that a backend
/// adds to reuse a recorded step (their results go nowhere).
struct StepRows {
  std::int32_t rows = 0;
  std::int32_t logits = 0;
  bool recorded = false;  // all ops of this step are enqueued already: issue none
};

struct EmbedArgs {
  MatrixId table;  // [vocab][columns]
  float* out;      // [rows][columns], of the step's ids
  std::int32_t rows;
};
struct RmsNormArgs {
  const float* x;       // [rows][columns]
  const float* weight;  // [columns]
  void* out;            // [rows][columns] activations; may be x where those are f32
  std::int32_t rows, columns;
  float epsilon;
  bool of_logit_rows = false;  // row i is taken from row logit_rows[i] of x; out is not x
  bool f32_out = false;        // out is f32 on every backend
  // [rows of x][columns], where norm_adds(), or null: of x + add, which then stands in x (not with
  // of_logit_rows: there x stays).
  const float* add = nullptr;
  // Only the matmul that comes next reads out, and none of its outputs is x: a backend may leave
  // the norm to that.
  bool for_next_matmul = false;
};
enum class Epilogue {
  store,   // out[i] = products, f32
  add,     // out[i] += products, f32; the product is summed in full first
  swiglu,  // out[0] = silu(products 0) * products 1, activations; out[1] is scratch as large
};
/// out[i][row] = weights[i] * x[row], for up to three matrices that share their input.
struct MatmulArgs {
  const void* x;  // [rows][columns] activations
  std::int32_t rows;
  std::int32_t n_weights;
  MatrixId weights[3];  // each [outputs_i][columns]
  void* out[3];         // [rows][outputs_i]
  Epilogue epilogue = Epilogue::store;
};
/// Rotates queries and keys by the step's positions and writes keys and values to the step's slots.
struct RopeStoreArgs {
  float* q;        // [rows][heads][head_size], or null; rotated in place
  float* k;        // [rows][kv_heads][head_size], or null; rotated in place
  const float* v;  // [rows][kv_heads][head_size], or null: nothing is stored
  void* q_out;     // [rows][heads][head_size] activations, or null; may be q where those are f32
  const float* table;  // [context][rope_size / 2][cos, sin]
  std::int32_t rows, heads, kv_heads, head_size;
  std::int32_t rope_size;  // pairs (2i, 2i+1) below it rotate
  std::int32_t layer;
  // Only the attention that comes next, of this layer, reads q, k and v: a backend may leave the
  // work to that.
  bool for_next_attention = false;
};
/// Causal attention of every row of the step over its own sequence's pages.
struct AttentionArgs {
  const void* q;  // [rows][heads][head_size] activations
  void* out;      // [rows][heads][head_size] activations
  std::int32_t layer, heads;
  float scale;  // scores are multiplied by it
};
/// Chooses the next id of every row with Batch::sampling, where samples_on_device().
struct SampleArgs {
  const float* logits;  // [rows][vocab]
  std::int32_t rows, vocab;
};

// The guide's ops on their own, f32 in and out, for herd::ops.
struct SwigluArgs {
  const float* gate;  // [n]
  const float* up;    // [n]
  float* out;         // [n] silu(gate) * up; may be either input
  std::int64_t n;
};
struct AddArgs {
  const float* a;  // [n]
  const float* b;  // [n]
  float* out;      // [n]; may be either input
  std::int64_t n;
};

// The unfused attention stages, as the guide names them: dense [heads][queries][keys] scores.
struct AttentionScoresArgs {
  const float* q;  // [batch][queries][heads][head_size]
  const float* k;  // [batch][keys][kv_heads][head_size]
  float* scores;   // [batch][heads][queries][keys]; keys after the query's position get -infinity
  std::int32_t batch, queries, keys, heads, kv_heads, head_size;
  const std::int32_t* start;  // [batch], of the host: position of each sequence's first query
  float scale;
};
struct SoftmaxArgs {
  float* x;    // [rows][columns]: exp_sum writes exp(x - max), normalize divides by sum
  float* max;  // [rows]
  float* sum;  // [rows]
  std::int64_t rows;
  std::int32_t columns;
};
struct ApplyAttentionArgs {
  const float* weights;  // [batch][heads][queries][keys]
  const float* v;        // [batch][keys][kv_heads][head_size]
  float* out;            // [batch][queries][heads][head_size]
  std::int32_t batch, queries, keys, heads, kv_heads, head_size;
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// What actually runs, for people and tests: "cpu avx512, 2 threads".
  virtual std::string description() const = 0;
  virtual Counters counters() const = 0;
  /// With BackendOptions::profile: in the order in which ops first ran.
  virtual std::vector<OpTime> op_times() const { return {}; }

  // ---- memory: all of it is taken before the first step ----
  /// Repacks a matrix into the device's own order. Errors: the source's, resource_exhausted.
  virtual Result<MatrixId> load_matrix(const MatrixSource& source) = 0;
  /// Whether load_matrix uses MatrixSource::mapping, which then lives as long as the matrix.
  virtual bool reads_mappings() const { return false; }
  /// Bytes load_matrix would keep for such a matrix.
  virtual std::int64_t matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                                    MatrixUse use = MatrixUse::product) const = 0;
  /// Zeroed, 64-byte aligned memory that lives as long as the backend.
  virtual Result<void*> allocate(std::int64_t bytes) = 0;
  /// Memory taken since a mark goes back in one go (matrices and buffers; not KV, not scratch).
  virtual MemoryMark mark() const = 0;
  virtual void release_to(MemoryMark mark) = 0;
  /// Makes the KV pool; called once. Errors: out_of_range and unsupported (a layout this backend
  /// does not take), resource_exhausted.
  virtual Status create_kv(const KvLayout& layout) = 0;
  /// What create_kv would take.
  virtual std::int64_t kv_bytes(const KvLayout& layout) const = 0;
  /// Scratch that steps of these sizes need at most; taken now.
  virtual Status reserve_scratch(const StepLimits& limits) = 0;
  /// What reserve_scratch would take.
  virtual std::int64_t scratch_bytes(const StepLimits& limits) const = 0;
  /// The memory that all of this is taken from.
  virtual DeviceMemory memory() const = 0;
  virtual std::int32_t activation_bytes() const = 0;
  virtual void upload(void* to, const void* from, std::int64_t bytes) = 0;
  /// Waits for the work enqueued so far, then copies. Errors: internal, naming the op that failed.
  virtual Status download(void* to, const void* from, std::int64_t bytes) = 0;
  /// n values of f32 to activations.
  virtual void to_activations(const float* x, void* out, std::int64_t n) = 0;

  // ---- the forward pass; REQUIRES the sizes stated in the structs ----
  /// REQUIRES: the batch stays as it is until end_step; every step issues the same ops with the
  /// same arguments for the same StepRows; what stands in a sequence's pages before its first new
  /// row was stored by earlier steps.
  virtual StepRows begin_step(const Batch& batch) = 0;
  virtual void end_step() = 0;
  virtual void embed(const EmbedArgs& args) = 0;
  /// Whether rms_norm takes RmsNormArgs::add; the model then leaves the residual add to the norms.
  virtual bool norm_adds() const { return false; }
  virtual void rms_norm(const RmsNormArgs& args) = 0;
  virtual void matmul(const MatmulArgs& args) = 0;
  virtual void rope_store(const RopeStoreArgs& args) = 0;
  virtual void attention(const AttentionArgs& args) = 0;

  /// Whether steps with Batch::sampling choose ids on the device; then ids of -1 - i in a batch
  /// stand for what the step before chose for its logits row i.
  virtual bool samples_on_device() const { return false; }
  virtual void sample(const SampleArgs&) {}
  /// Waits for the oldest step with Batch::sampling not yet asked for: the id of each of its logits
  /// rows, -1 where no logit or not all are finite. At most two steps may be open.
  virtual Result<std::span<const TokenId>> sampled() {
    return Error{Code::internal, "this backend does not sample"};
  }

  // ---- the guide's separate stages, for herd::ops ----
  virtual void swiglu(const SwigluArgs& args) = 0;
  virtual void add(const AddArgs& args) = 0;
  virtual void attention_scores(const AttentionScoresArgs& args) = 0;
  virtual void softmax_max(const SoftmaxArgs& args) = 0;
  virtual void softmax_exp_sum(const SoftmaxArgs& args) = 0;
  virtual void softmax_normalize(const SoftmaxArgs& args) = 0;
  virtual void apply_attention(const ApplyAttentionArgs& args) = 0;
};

struct BackendOptions {
  DeviceType device = DeviceType::cpu;
  int threads = 0;             // 0: the machine's cores
  Isa isa = Isa::automatic;    // cpu only
  bool check_each_op = false;  // cuda, metal: wait after every op, so that one that fails is named
  bool profile = false;        // metal: wait after every op, and keep the GPU's time for it
};

/// The one place that knows which backends this build holds. Errors: unsupported, naming what is
/// missing (the device, the ISA) and what there is.
Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options);

// Each backend's own maker; src/backend/none/ supplies those the build leaves out.
Result<std::unique_ptr<Backend>> make_reference_backend(const BackendOptions& options);
Result<std::unique_ptr<Backend>> make_cpu_backend(const BackendOptions& options);
Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendOptions& options);
Result<std::unique_ptr<Backend>> make_metal_backend(const BackendOptions& options);

}  // namespace herd
