// What a device must do for the forward pass: hold weights, hold the KV pool, and run about ten
// named ops. Every op takes one plain struct. The model above knows nothing else of a device.
//
// Pointers in these structs are memory of the backend (from allocate()); only `cpu` and
// `reference` may also be handed ordinary host memory. Numerics: docs/numerics.md, op by op.
// Thread safety: one caller at a time per backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/batch.h"
#include "herd/status.h"
#include "herd/types.h"
#include "quant/types.h"

namespace herd {

/// A weight matrix handed to a backend: `rows` outputs by `columns` inputs.
struct MatrixSource {
  std::string_view name;
  quant::Type type = quant::Type::F32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;  // a multiple of the type's block
  /// Reads the raw blocks of rows [first, first + count) into `out` (count * row_bytes).
  std::function<Status(std::int64_t first, std::int64_t count, std::span<std::byte> out)> read;
};

/// A matrix a backend owns; valid as long as the backend.
struct MatrixId {
  std::int32_t index = -1;
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

struct EmbedArgs {
  MatrixId table;                // [vocab][columns]
  std::span<const TokenId> ids;  // [rows], each within the table
  float* out;                    // [rows][columns]
};
struct RmsNormArgs {
  const float* x;       // [rows][columns]
  const float* weight;  // [columns]
  float* out;           // [rows][columns]; may be x
  std::int32_t rows, columns;
  float epsilon;
};
/// out[i][row] = weights[i] * x[row], for up to three matrices that share their input.
struct MatmulArgs {
  const float* x;  // [rows][columns]
  std::int32_t rows;
  std::int32_t n_weights;
  MatrixId weights[3];  // each [outputs_i][columns]
  float* out[3];        // [rows][outputs_i]
  bool add;             // out += instead of out =; the product is summed in full first
};
struct RopeArgs {
  float* x;                                  // [rows][heads][head_size], rotated in place
  std::span<const std::int32_t> positions;   // [rows]
  const float* table;                        // [context][rope_size / 2][cos, sin]
  std::int32_t heads, head_size, rope_size;  // pairs (2i, 2i+1) below rope_size rotate
};
/// Keys and values of this step's rows go to their slots of one layer of the pool.
struct KvStoreArgs {
  const float* k;                       // [rows][kv_heads][head_size]
  const float* v;                       // [rows][kv_heads][head_size]
  std::span<const std::int32_t> slots;  // [rows]
  std::int32_t layer;
};
/// Causal attention of every row over its own sequence's pages.
struct AttentionArgs {
  const float* q;      // [rows][heads][head_size]
  float* out;          // [rows][heads][head_size]
  const Batch* batch;  // positions, sequences and block_table are read
  std::int32_t layer, heads;
  float scale;  // scores are multiplied by it
};
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
struct GatherRowsArgs {
  const float* x;                      // [rows_of_x][columns]
  std::span<const std::int32_t> rows;  // [n]
  float* out;                          // [n][columns]; not x
  std::int32_t columns;
};

// The unfused attention stages, as the guide names them: dense [heads][queries][keys] scores.
struct AttentionScoresArgs {
  const float* q;  // [batch][queries][heads][head_size]
  const float* k;  // [batch][keys][kv_heads][head_size]
  float* scores;   // [batch][heads][queries][keys]; keys after the query's position get -infinity
  std::int32_t batch, queries, keys, heads, kv_heads, head_size;
  const std::int32_t* start;  // [batch] absolute position of each sequence's first query
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

  // ---- memory: all of it is taken before the first step ----
  /// Repacks a matrix into the device's own order. Errors: the source's, resource_exhausted.
  virtual Result<MatrixId> load_matrix(const MatrixSource& source) = 0;
  /// Bytes load_matrix would keep for such a matrix.
  virtual std::int64_t matrix_bytes(quant::Type type, std::int64_t rows,
                                    std::int64_t columns) const = 0;
  /// Zeroed, 64-byte aligned memory that lives as long as the backend.
  virtual Result<void*> allocate(std::int64_t bytes) = 0;
  /// Memory taken since a mark goes back in one go (matrices and buffers; not KV, not scratch).
  virtual MemoryMark mark() const = 0;
  virtual void release_to(MemoryMark mark) = 0;
  /// Makes the KV pool; called once.
  virtual Status create_kv(const KvLayout& layout) = 0;
  /// Scratch the ops need at most for steps of `max_rows` rows against matrices of at most
  /// `max_columns` inputs and sequences of at most `max_context` positions; taken now.
  virtual Status reserve_scratch(std::int32_t max_rows, std::int32_t max_columns,
                                 std::int32_t max_context) = 0;
  /// What reserve_scratch would take.
  virtual std::int64_t scratch_bytes(std::int32_t max_rows, std::int32_t max_columns,
                                     std::int32_t max_context) const = 0;
  virtual void upload(void* to, const void* from, std::int64_t bytes) = 0;
  /// Waits for the work enqueued so far, then copies.
  virtual Status download(void* to, const void* from, std::int64_t bytes) = 0;

  // ---- the forward pass; REQUIRES the sizes stated in the structs ----
  virtual void embed(const EmbedArgs& args) = 0;
  virtual void rms_norm(const RmsNormArgs& args) = 0;
  virtual void matmul(const MatmulArgs& args) = 0;
  virtual void rope(const RopeArgs& args) = 0;
  virtual void kv_store(const KvStoreArgs& args) = 0;
  virtual void attention(const AttentionArgs& args) = 0;
  virtual void swiglu(const SwigluArgs& args) = 0;
  virtual void gather_rows(const GatherRowsArgs& args) = 0;

  // ---- the guide's separate stages, for herd::ops ----
  virtual void add(const AddArgs& args) = 0;
  virtual void attention_scores(const AttentionScoresArgs& args) = 0;
  virtual void softmax_max(const SoftmaxArgs& args) = 0;
  virtual void softmax_exp_sum(const SoftmaxArgs& args) = 0;
  virtual void softmax_normalize(const SoftmaxArgs& args) = 0;
  virtual void apply_attention(const ApplyAttentionArgs& args) = 0;
};

struct BackendOptions {
  DeviceType device = DeviceType::cpu;
  int threads = 0;           // 0: the machine's cores
  Isa isa = Isa::automatic;  // cpu only
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
