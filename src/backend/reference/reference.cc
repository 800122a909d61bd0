// The oracle: docs/numerics.md as plain loops, on raw GGUF blocks, one thread. Simple before fast;
// every other backend is held against it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/reference/chains.h"
#include "backend/reference/rounded.h"
#include "base/half.h"
#include "base/math.h"
#include "base/memory.h"

namespace herd {
namespace {

using reference::CodedRow;
using reference::kChains;
using reference::kChunk;

constexpr std::int64_t kMostSize = std::int64_t{1}
                                   << 31;  // rows, columns, heads and the like are below

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<std::byte[], Free>;

/// Null when memory is out. REQUIRES: bytes >= 0.
Bytes zeroed(std::int64_t bytes) {
  const std::size_t size =
      std::max<std::size_t>(64, (static_cast<std::size_t>(bytes) + 63) / 64 * 64);
  Bytes p(static_cast<std::byte*>(std::aligned_alloc(64, size)));
  if (p != nullptr) std::memset(p.get(), 0, size);
  return p;
}

Error out_of_memory(std::string_view what, std::int64_t bytes) {
  return {Code::resource_exhausted, fmt::format("{}: no memory for {} bytes", what, bytes)};
}

/// sum over k in chunks of fma(a[k * a_step], b[k * b_step]).
float chunked_dot(const float* a, const float* b, std::int32_t n) {
  float total = 0;
  for (std::int32_t k0 = 0; k0 < n; k0 += kChunk) {
    float acc = 0;
    for (std::int32_t k = k0; k < std::min(n, k0 + kChunk); ++k) acc = std::fma(a[k], b[k], acc);
    total = total + acc;
  }
  return total;
}

/// One chain, then the scale: attention's scores.
float scaled_dot(const float* a, const float* b, std::int32_t n, float scale) {
  float acc = 0;
  for (std::int32_t k = 0; k < n; ++k) acc = std::fma(a[k], b[k], acc);
  return acc * scale;
}

/// Replaces x by exp(x - max) and returns the 16-lane sum of it.
float exp_sum(float* x, float max, std::int32_t n) {
  float lanes[16] = {};
  for (std::int32_t j = 0; j < n; ++j) {
    x[j] = exp_f32(x[j] - max);
    lanes[j % 16] = lanes[j % 16] + x[j];
  }
  return tree16(lanes);
}

/// Plus zero: which of -0 and +0 is "the largest" must not depend on the order they are looked at.
float largest(const float* x, std::int32_t n) {
  float best = x[0];
  for (std::int32_t j = 1; j < n; ++j) best = x[j] > best ? x[j] : best;
  return best + 0.0f;
}

/// Floats that an op needs while it runs.
class Scratch {
 public:
  /// False when memory is out; what was there stays.
  bool reserve(std::int64_t floats) {
    if (floats <= floats_) return true;
    Bytes bytes = zeroed(floats * 4);
    if (bytes == nullptr) return false;
    bytes_ = std::move(bytes);
    floats_ = floats;
    return true;
  }
  /// REQUIRES: reserved, or that there is memory.
  float* at_least(std::int64_t floats) {
    reserve(floats);
    return reinterpret_cast<float*>(bytes_.get());
  }

 private:
  Bytes bytes_;
  std::int64_t floats_ = 0;
};

class ReferenceBackend final : public Backend {
 public:
  std::string description() const override { return "reference, 1 thread"; }
  Counters counters() const override { return counters_; }

  // ---- memory ----
  Result<MatrixId> load_matrix(const MatrixSource& source) override {
    if (Status bad = check_shape(source); !bad.ok()) return bad.error();
    const std::int64_t bytes = matrix_bytes(source.type, source.rows, source.columns);
    Matrix m{source.type, source.rows, source.columns, zeroed(bytes)};
    if (m.blocks == nullptr) return out_of_memory(source.name, bytes);
    const std::span<std::byte> out(m.blocks.get(), static_cast<std::size_t>(bytes));
    if (Status status = source.read(0, source.rows, out); !status.ok()) return status.error();
    matrices_.push_back(std::move(m));
    return MatrixId{static_cast<std::int32_t>(matrices_.size()) - 1};
  }
  std::int64_t matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                            MatrixUse = MatrixUse::product) const override {
    return rows * quant::row_bytes(type, columns);
  }
  Result<void*> allocate(std::int64_t bytes) override {
    if (bytes < 0)
      return Error{Code::out_of_range, fmt::format("buffer: {} bytes, must be at least 0", bytes)};
    Bytes buffer = zeroed(bytes);
    if (buffer == nullptr) return out_of_memory("buffer", bytes);
    buffers_.push_back(std::move(buffer));
    return static_cast<void*>(buffers_.back().get());
  }
  MemoryMark mark() const override { return {matrices_.size(), buffers_.size()}; }
  void release_to(MemoryMark mark) override {
    while (matrices_.size() > mark.matrices) matrices_.pop_back();
    while (buffers_.size() > mark.buffers) buffers_.pop_back();
  }
  Status create_kv(const KvLayout& layout) override {
    if (Status bad = check_layout(layout); !bad.ok()) return bad;
    Bytes pool = zeroed(layout.bytes());
    if (pool == nullptr) return out_of_memory("KV pool", layout.bytes());
    kv_ = layout;
    pool_ = std::move(pool);
    return {};
  }
  Status reserve_scratch(const StepLimits& limits) override {
    const std::int32_t max_rows = limits.max_rows, max_columns = limits.max_columns,
                       max_context = limits.max_context;
    if (max_rows < 0 || max_columns < 0 || max_context < 0)
      return {Code::out_of_range,
              fmt::format("scratch: {} rows, {} columns, {} positions: must be at least 0",
                          max_rows, max_columns, max_context)};
    if (!weights_.reserve(weight_floats(max_columns)) || !scores_.reserve(max_context) ||
        !rounded_.reserve(max_rows * reference::rounded_floats(max_columns)))
      return out_of_memory("scratch", scratch_bytes(limits));
    return {};
  }
  std::int64_t scratch_bytes(const StepLimits& limits) const override {
    return (weight_floats(limits.max_columns) + limits.max_context +
            limits.max_rows * reference::rounded_floats(limits.max_columns)) *
           4;
  }
  std::int64_t kv_bytes(const KvLayout& layout) const override { return layout.bytes(); }
  DeviceMemory memory() const override { return {total_memory(), available_memory(), false}; }
  std::int32_t activation_bytes() const override { return 4; }
  void upload(void* to, const void* from, std::int64_t bytes) override {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  Status download(void* to, const void* from, std::int64_t bytes) override {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    return {};
  }

  void to_activations(const float* x, void* out, std::int64_t n) override {
    std::memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float));
  }

  // ---- the forward pass ----
  StepRows begin_step(const Batch& batch) override {
    batch_ = &batch;
    return {batch.n_rows(), static_cast<std::int32_t>(batch.logit_rows.size())};
  }
  void end_step() override { batch_ = nullptr; }

  void embed(const EmbedArgs& a) override {
    const Matrix& m = matrix(a.table);
    for (std::int64_t i = 0; i < a.rows; ++i) {
      float* out = a.out + i * m.columns;
      read_row(m, batch_->ids[static_cast<std::size_t>(i)], out);
      for (std::int64_t k = 0; k < m.columns; ++k) out[k] = out[k] + 0.0f;  // -0 becomes +0
    }
  }

  void rms_norm(const RmsNormArgs& a) override {
    for (std::int32_t row = 0; row < a.rows; ++row) {
      const std::int64_t from =
          a.of_logit_rows ? batch_->logit_rows[static_cast<std::size_t>(row)] : row;
      const float* x = a.x + from * a.columns;
      float* out = static_cast<float*>(a.out) + std::int64_t{row} * a.columns;
      float lanes[16] = {};
      for (std::int32_t k = 0; k < a.columns; ++k)
        lanes[k % 16] = std::fma(x[k], x[k], lanes[k % 16]);
      const float mean = tree16(lanes) / static_cast<float>(a.columns);
      const float inv = 1.0f / std::sqrt(mean + a.epsilon);
      for (std::int32_t k = 0; k < a.columns; ++k) out[k] = (x[k] * inv) * a.weight[k];
    }
  }

  void matmul(const MatmulArgs& a) override {
    for (std::int32_t i = 0; i < a.n_weights; ++i) {
      const Matrix& m = matrix(a.weights[i]);
      multiply(a, m, static_cast<float*>(a.out[i]));
      counters_.weight_bytes += static_cast<std::uint64_t>(matrix_bytes(m.type, m.rows, m.columns));
      counters_.matmul_flops += 2ull * static_cast<std::uint64_t>(a.rows) *
                                static_cast<std::uint64_t>(m.rows) *
                                static_cast<std::uint64_t>(m.columns);
      ++counters_.matmuls;
    }
    if (a.epilogue != Epilogue::swiglu) return;
    float* gate = static_cast<float*>(a.out[0]);
    swiglu({gate, static_cast<float*>(a.out[1]), gate, a.rows * matrix(a.weights[0]).rows});
  }

  void rope_store(const RopeStoreArgs& a) override {
    if (a.q != nullptr) rotate(a.q, a.heads, a);
    if (a.k != nullptr) rotate(a.k, a.kv_heads, a);
    if (a.v != nullptr) store(a);
    if (a.q_out != nullptr && a.q_out != a.q)
      to_activations(a.q, a.q_out, std::int64_t{a.rows} * a.heads * a.head_size);
  }

  void attention(const AttentionArgs& a) override {
    for (const BatchSequence& s : batch_->sequences)
      for (std::int32_t row = s.first_row; row < s.first_row + s.n_rows; ++row)
        for (std::int32_t head = 0; head < a.heads; ++head) attend(a, s, row, head);
  }

  void swiglu(const SwigluArgs& a) override {
    for (std::int64_t i = 0; i < a.n; ++i) a.out[i] = silu_f32(a.gate[i]) * a.up[i];
  }

  // ---- the guide's separate stages ----
  void add(const AddArgs& a) override {
    for (std::int64_t i = 0; i < a.n; ++i) a.out[i] = a.a[i] + a.b[i];
  }
  void attention_scores(const AttentionScoresArgs& a) override {
    for_each_query(
        a.batch, a.heads, a.queries, [&](std::int64_t b, std::int64_t h, std::int64_t i) {
          const float* q = a.q + ((b * a.queries + i) * a.heads + h) * a.head_size;
          float* scores = a.scores + ((b * a.heads + h) * a.queries + i) * a.keys;
          for (std::int64_t j = 0; j < a.keys; ++j) {
            const float* k =
                a.k + ((b * a.keys + j) * a.kv_heads + h / (a.heads / a.kv_heads)) * a.head_size;
            scores[j] = j <= a.start[b] + i ? scaled_dot(q, k, a.head_size, a.scale)
                                            : -std::numeric_limits<float>::infinity();
          }
        });
  }
  void softmax_max(const SoftmaxArgs& a) override {
    if (a.columns == 0) return;
    for (std::int64_t r = 0; r < a.rows; ++r) a.max[r] = largest(a.x + r * a.columns, a.columns);
  }
  void softmax_exp_sum(const SoftmaxArgs& a) override {
    for (std::int64_t r = 0; r < a.rows; ++r)
      a.sum[r] = exp_sum(a.x + r * a.columns, a.max[r], a.columns);
  }
  void softmax_normalize(const SoftmaxArgs& a) override {
    for (std::int64_t r = 0; r < a.rows; ++r)
      for (std::int32_t j = 0; j < a.columns; ++j) a.x[r * a.columns + j] /= a.sum[r];
  }
  void apply_attention(const ApplyAttentionArgs& a) override {
    std::vector<float> column(static_cast<std::size_t>(a.keys));
    for_each_query(
        a.batch, a.heads, a.queries, [&](std::int64_t b, std::int64_t h, std::int64_t i) {
          const float* weights = a.weights + ((b * a.heads + h) * a.queries + i) * a.keys;
          float* out = a.out + ((b * a.queries + i) * a.heads + h) * a.head_size;
          for (std::int32_t d = 0; d < a.head_size; ++d) {
            for (std::int64_t j = 0; j < a.keys; ++j)
              column[static_cast<std::size_t>(j)] =
                  a.v[((b * a.keys + j) * a.kv_heads + h / (a.heads / a.kv_heads)) * a.head_size +
                      d];
            out[d] = chunked_dot(weights, column.data(), a.keys);
          }
        });
  }

 private:
  struct Matrix {
    quant::Type type;
    std::int64_t rows, columns;
    Bytes blocks;
  };
  const Matrix& matrix(MatrixId id) const { return matrices_[static_cast<std::size_t>(id.index)]; }

  static Status check_shape(const MatrixSource& source) {
    if (source.rows < 1 || source.columns < 1 || source.rows >= kMostSize ||
        source.columns >= kMostSize)
      return {Code::out_of_range, fmt::format("matrix {}: {} x {} is outside 1..2^31-1",
                                              source.name, source.rows, source.columns)};
    const quant::TypeInfo& info = quant::type_info(source.type);
    if (source.columns % info.block == 0) return {};
    return {Code::invalid_argument,
            fmt::format("matrix {}: {} columns, must be a multiple of {}, the block of {}",
                        source.name, source.columns, info.block, info.name)};
  }
  static Status check_layout(const KvLayout& layout) {
    const std::pair<std::string_view, std::int32_t> sizes[] = {{"layers", layout.layers},
                                                               {"kv_heads", layout.kv_heads},
                                                               {"head_size", layout.head_size},
                                                               {"page_size", layout.page_size},
                                                               {"pages", layout.pages}};
    double bytes = 8;  // at most, of a key and a value component
    for (const auto& [name, value] : sizes) {
      if (value < 1)
        return {Code::out_of_range,
                fmt::format("KV pool: {} is {}, must be at least 1", name, value)};
      bytes *= value;
    }
    if (bytes < 0x1p60) return {};
    return {Code::resource_exhausted, fmt::format("KV pool: no memory for {} bytes", bytes)};
  }

  void rotate(float* x, std::int32_t heads, const RopeStoreArgs& a) {
    if (a.rope_size == 0) return;  // then there may be no positions
    for (std::int64_t row = 0; row < a.rows; ++row) {
      const float* table =
          a.table + std::int64_t{batch_->positions[static_cast<std::size_t>(row)]} * a.rope_size;
      for (std::int32_t h = 0; h < heads; ++h, x += a.head_size) {
        for (std::int32_t i = 0; i < a.rope_size; i += 2) {
          const float u = x[i], v = x[i + 1], c = table[i], s = table[i + 1];
          x[i] = std::fma(u, c, -(v * s));
          x[i + 1] = std::fma(v, c, u * s);
        }
      }
    }
  }
  void store(const RopeStoreArgs& a) {
    const std::int32_t size = kv_.head_size;
    for (std::int64_t row = 0; row < a.rows; ++row) {
      for (std::int32_t h = 0; h < kv_.kv_heads; ++h) {
        const std::int64_t from = (row * kv_.kv_heads + h) * size;
        write_head(head_at(a.layer, batch_->slots[static_cast<std::size_t>(row)], h), a.k + from,
                   a.v + from);
      }
    }
  }

  void multiply(const MatmulArgs& a, const Matrix& m, float* out) {
    const auto* x = static_cast<const float*>(a.x);
    if (quant::type_info(m.type).group == 0) {
      for (std::int64_t n = 0; n < m.rows; n += kChains) multiply_values(a, m, n, x, out);
      return;
    }
    const std::int64_t floats = reference::rounded_floats(m.columns);
    float* rounded = rounded_.at_least(a.rows * floats);
    for (std::int64_t r = 0; r < a.rows; ++r)
      reference::round_row(x + r * m.columns, static_cast<std::int32_t>(m.columns),
                           reference::rounded_at(rounded + r * floats, m.columns));
    for (std::int64_t n = 0; n < m.rows; ++n) {
      const CodedRow w = read_codes(m, n);
      for (std::int64_t r = 0; r < a.rows; ++r)
        put(a, reference::multiply_codes(w, reference::rounded_at(rounded + r * floats, m.columns)),
            out[r * m.rows + n]);
    }
  }
  static void put(const MatmulArgs& a, float y, float& to) {
    to = a.epilogue == Epilogue::add ? to + y : y;
  }

  /// Outputs [first, first + kChains) of every row: the weights are decoded once for all of them.
  void multiply_values(const MatmulArgs& a, const Matrix& m, std::int64_t first, const float* x,
                       float* out) {
    const std::int64_t count = std::min<std::int64_t>(kChains, m.rows - first);
    float* w = weights_.at_least(weight_floats(m.columns));
    for (std::int64_t n = 0; n < count; ++n) read_row(m, first + n, w + n * m.columns);
    for (std::int64_t r = 0; r < a.rows; ++r) {
      float y[kChains];  // of more rows than there are at the end: those are left
      chains_({w, x + r * m.columns, static_cast<std::int32_t>(m.columns)}, y);
      for (std::int64_t n = 0; n < count; ++n) put(a, y[n], out[r * m.rows + first + n]);
    }
  }

  CodedRow read_codes(const Matrix& m, std::int64_t row) {
    const quant::TypeInfo& info = quant::type_info(m.type);
    const std::int64_t bytes = quant::row_bytes(m.type, m.columns);
    float* codes = weights_.at_least(weight_floats(m.columns));
    float* scales = codes + m.columns;
    float* mins = scales + m.columns / info.group;
    quant::decompose(m.type, {m.blocks.get() + row * bytes, static_cast<std::size_t>(bytes)}, codes,
                     scales, mins);
    return {codes, scales, info.has_min ? mins : nullptr, info.group,
            static_cast<std::int32_t>(m.columns)};
  }

  void read_row(const Matrix& m, std::int64_t row, float* out) const {
    const std::int64_t bytes = quant::row_bytes(m.type, m.columns);
    quant::dequantize(m.type, {m.blocks.get() + row * bytes, static_cast<std::size_t>(bytes)},
                      {out, static_cast<std::size_t>(m.columns)});
  }

  /// kChains rows of values, or one of codes with a scale and a min for each 16 of them.
  static std::int64_t weight_floats(std::int64_t columns) { return kChains * columns; }

  template <class Body>
  static void for_each_query(std::int32_t batch, std::int32_t heads, std::int32_t queries,
                             Body&& body) {
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t i = 0; i < queries; ++i) body(b, h, i);
  }

  /// Pool: [layer][slot][kv_head][key, key scale if of 16 bits, value].
  std::byte* head_at(std::int64_t layer, std::int64_t slot, std::int64_t head) const {
    const std::int64_t slots = std::int64_t{kv_.pages} * kv_.page_size;
    return pool_.get() +
           ((layer * slots + slot) * kv_.kv_heads + head) * (kv_.key_bytes() + kv_.value_bytes());
  }
  void write_head(std::byte* at, const float* k, const float* v) const {
    const std::int32_t size = kv_.head_size;
    std::byte* value = at + kv_.key_bytes();
    if (kv_.type == KvType::f32) {
      std::memcpy(at, k, static_cast<std::size_t>(size) * 4);
      std::memcpy(value, v, static_cast<std::size_t>(size) * 4);
      return;
    }
    const float scale = int16_scale(k, size);
    for (std::int32_t d = 0; d < size; ++d) {
      const auto code = static_cast<std::int16_t>(to_int16_code(k[d], scale));
      const std::uint16_t half = float_to_half(v[d]);
      std::memcpy(at + 2 * d, &code, 2);
      std::memcpy(value + 2 * d, &half, 2);
    }
    std::memcpy(at + 2 * size, &scale, 4);
  }
  /// Key component d without its scale, the scale, and value component d.
  float key(const std::byte* at, std::int32_t d) const {
    if (kv_.type == KvType::f32) return get<float>(at + 4 * d);
    return static_cast<float>(get<std::int16_t>(at + 2 * d));
  }
  float key_scale(const std::byte* at) const { return get<float>(at + 2 * kv_.head_size); }
  float value(const std::byte* at, std::int32_t d) const {
    at += kv_.key_bytes();
    return kv_.type == KvType::f32 ? get<float>(at + 4 * d)
                                   : half_to_float(get<std::uint16_t>(at + 2 * d));
  }
  template <class T>
  static T get(const std::byte* at) {
    T out;
    std::memcpy(&out, at, sizeof(T));
    return out;
  }

  void attend(const AttentionArgs& a, const BatchSequence& s, std::int32_t row, std::int32_t head) {
    const std::int32_t size = kv_.head_size, kv_head = head / (a.heads / kv_.kv_heads);
    const std::int32_t keys = batch_->positions[static_cast<std::size_t>(row)] + 1;
    const std::int64_t at = (std::int64_t{row} * a.heads + head) * size;
    const auto cached = [&](std::int32_t j) {
      const std::int32_t page =
          batch_->block_table[static_cast<std::size_t>(s.first_page + j / kv_.page_size)];
      return head_at(a.layer, std::int64_t{page} * kv_.page_size + j % kv_.page_size, kv_head);
    };
    const float* q = static_cast<const float*>(a.q);
    float* scores = scores_.at_least(keys);
    for (std::int32_t j = 0; j < keys; ++j) {
      const std::byte* k = cached(j);
      float acc = 0;
      for (std::int32_t d = 0; d < size; ++d) acc = std::fma(q[at + d], key(k, d), acc);
      if (kv_.type == KvType::f16) acc = acc * key_scale(k);
      scores[j] = acc * a.scale;
    }
    const float sum = exp_sum(scores, largest(scores, keys), keys);
    for (std::int32_t d = 0; d < size; ++d) {
      float total = 0;
      for (std::int32_t chunk = 0; chunk < keys; chunk += kChunk) {
        float acc = 0;
        for (std::int32_t j = chunk; j < std::min(keys, chunk + kChunk); ++j)
          acc = std::fma(scores[j], value(cached(j), d), acc);
        total = chunk == 0 ? acc : total + acc;
      }
      static_cast<float*>(a.out)[at + d] = total / sum;
    }
  }

  const Batch* batch_ = nullptr;  // of the step under way
  Counters counters_;
  std::vector<Matrix> matrices_;
  std::vector<Bytes> buffers_;
  KvLayout kv_;
  Bytes pool_;
  Scratch weights_, scores_, rounded_;
  const reference::ChainsFn chains_ = reference::chains_for_this_machine();
};

}  // namespace

Result<std::unique_ptr<Backend>> make_reference_backend(const BackendOptions&) {
  return std::unique_ptr<Backend>(new ReferenceBackend());
}

}  // namespace herd
