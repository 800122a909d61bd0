// herd::Ops: checks the sizes of host spans, brings them to the device, runs one op, brings the
// result back. One way for every device.
#include "herd/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <type_traits>

#include "backend/backend.h"
#include "model/loader.h"

namespace herd {
namespace {

struct Factor {
  std::string_view name;
  std::int64_t value;
};
using Factors = std::initializer_list<Factor>;

/// Product of sizes that may be 0, or an error that names the first bad one.
Result<std::int64_t> product(std::string_view op, Factors factors) {
  std::int64_t n = 1;
  for (const Factor& f : factors) {
    if (f.value < 0)
      return Error{Code::invalid_argument,
                   fmt::format("{}: {} is {}, must be at least 0", op, f.name, f.value)};
    if (__builtin_mul_overflow(n, f.value, &n))
      return Error{
          Code::invalid_argument,
          fmt::format("{}: the product of its sizes overflows at {} = {}", op, f.name, f.value)};
  }
  return n;
}

/// How much a caller handed over.
struct Given {
  template <class T>
  Given(std::span<T> span)  // NOLINT: spans convert on call
      : count(std::ssize(span)),
        unit(std::is_same_v<std::remove_const_t<T>, float> ? "floats"
             : sizeof(T) == 1                              ? "bytes"
                                                           : "integers") {}
  std::int64_t count;
  std::string_view unit;
};

/// The argument `name` must hold the product of `factors` elements.
Status size(std::string_view op, std::string_view name, Given given, Factors factors) {
  const auto needed = product(op, factors);
  if (!needed.ok()) return needed.error();
  if (given.count == *needed) return {};
  std::string names, values;
  for (const Factor& f : factors) {
    names += fmt::format("{}{}", names.empty() ? "" : "*", f.name);
    values += fmt::format("{}{}", values.empty() ? "" : "*", f.value);
  }
  return {Code::invalid_argument, fmt::format("{}: {} holds {} {}, {} needs {} ({})", op, name,
                                              given.count, given.unit, names, *needed, values)};
}

Status first_error(std::initializer_list<Status> checks) {
  for (const Status& status : checks)
    if (!status.ok()) return status;
  return {};
}

Status divides(std::string_view op, int heads, int kv_heads) {
  if (kv_heads > 0 && heads % kv_heads == 0) return {};
  return {Code::invalid_argument,
          fmt::format("{}: kv_heads {} must divide heads {}", op, kv_heads, heads)};
}

/// The position of each sequence's first row.
Status starts(std::string_view op, std::span<const std::int32_t> start, std::int64_t most) {
  for (std::size_t i = 0; i < start.size(); ++i)
    if (start[i] < 0 || start[i] > most)
      return {Code::invalid_argument,
              fmt::format("{}: start[{}] is {}, must be 0 to {}", op, i, start[i], most)};
  return {};
}

std::string type_names() {
  std::string names;
  for (const quant::TypeInfo& info : quant::kTypes)
    names += fmt::format("{}{}", names.empty() ? "" : " ", info.name);
  return names;
}

/// [batch * sequence][cos, sin]: the rows of the table that this call needs, in the order of x.
Result<std::vector<float>> rope_rows(std::span<const std::int32_t> start, int sequence,
                                     int head_size, float base) {
  ModelConfig config;
  config.rope_size = head_size;
  config.rope_base = base;
  std::vector<float> rows;
  for (const std::int32_t first : start) {
    const auto table = make_rope_table(config, first + sequence, {}, first);
    if (!table.ok()) return table.error();
    rows.insert(rows.end(), table->begin(), table->end());
  }
  return rows;
}

/// Device memory for the length of one call.
class Staging {
 public:
  explicit Staging(Backend& backend) : backend_(backend), mark_(backend.mark()) {}
  ~Staging() { backend_.release_to(mark_); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  float* room(std::size_t floats) {
    if (!status_.ok()) return nullptr;
    const auto p = backend_.allocate(static_cast<std::int64_t>(floats) * 4);
    if (!p.ok()) status_ = p.status();
    return p.ok() ? static_cast<float*>(*p) : nullptr;
  }
  float* in(std::span<const float> host) {
    float* device = room(host.size());
    if (device != nullptr) backend_.upload(device, host.data(), std::ssize(host) * 4);
    return device;
  }
  void* activations(std::span<const float> host) {
    float* floats = in(host);
    if (!status_.ok() || backend_.activation_bytes() == 4) return floats;
    const auto p = backend_.allocate(std::ssize(host) * backend_.activation_bytes());
    if (!p.ok()) status_ = p.status();
    if (!p.ok()) return nullptr;
    backend_.to_activations(floats, *p, std::ssize(host));
    return *p;
  }
  MatrixId matrix(quant::Type type, int rows, int columns, std::span<const std::byte> blocks) {
    if (!status_.ok()) return {};
    const std::int64_t row_bytes = quant::row_bytes(type, columns);
    const auto id = backend_.load_matrix(
        {"w", type, rows, columns,
         [&](std::int64_t first, std::int64_t, std::span<std::byte> out) {
           std::memcpy(out.data(), blocks.data() + first * row_bytes, out.size());
           return Status();
         },
         MatrixUse::product});
    if (!id.ok()) status_ = id.status();
    return id.ok() ? *id : MatrixId{};
  }
  void scratch(int rows, int columns) {
    if (status_.ok()) status_ = backend_.reserve_scratch({rows, columns, 1});
  }
  Status out(std::span<float> host, const float* device) {
    if (status_.ok()) status_ = backend_.download(host.data(), device, std::ssize(host) * 4);
    return status_;
  }
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }

 private:
  Backend& backend_;
  MemoryMark mark_;
  Status status_;
};

}  // namespace

Result<Ops> Ops::create(DeviceType device, int threads, Isa isa) {
  auto backend = make_backend({device, threads, isa});
  if (!backend.ok()) return backend.error();
  return Ops(std::move(*backend));
}

Ops::Ops(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
Ops::Ops(Ops&&) noexcept = default;
Ops& Ops::operator=(Ops&&) noexcept = default;
Ops::~Ops() = default;

Status Ops::rms_norm_batch_f32(std::span<const float> x, std::span<const float> weight,
                               std::span<float> out, int batch, int sequence, int dim,
                               float epsilon) {
  constexpr std::string_view op = "rms_norm_batch_f32";
  const Factors shape = {{"batch", batch}, {"sequence", sequence}, {"dim", dim}};
  if (Status bad = first_error({size(op, "x", x, shape), size(op, "out", out, shape),
                                size(op, "weight", weight, {{"dim", dim}})});
      !bad.ok())
    return bad;
  if (!(epsilon >= 0))
    return {Code::invalid_argument, fmt::format("{}: epsilon {} must be at least 0", op, epsilon)};
  if (x.empty()) return {};
  if (const std::int64_t rows = std::int64_t{batch} * sequence;
      rows > std::numeric_limits<int>::max())
    return {Code::invalid_argument,
            fmt::format("{}: batch*sequence is {}, must be below 2^31", op, rows)};
  Staging s(*backend_);
  float *dx = s.in(x), *dw = s.in(weight);
  if (s.ok()) backend_->rms_norm({dx, dw, dx, batch * sequence, dim, epsilon, false, true});
  return s.out(out, dx);
}

Status Ops::rope_batch_f32(std::span<float> x, std::span<const std::int32_t> start, int batch,
                           int sequence, int heads, int head_size, float base) {
  constexpr std::string_view op = "rope_batch_f32";
  if (Status bad = first_error({size(op, "x", x,
                                     {{"batch", batch},
                                      {"sequence", sequence},
                                      {"heads", heads},
                                      {"head_size", head_size}}),
                                size(op, "start", start, {{"batch", batch}})});
      !bad.ok())
    return bad;
  if (head_size % 2 != 0)
    return {Code::invalid_argument, fmt::format("{}: head_size {} must be even", op, head_size)};
  if (!(base > 0) || !std::isfinite(base))
    return {Code::invalid_argument,
            fmt::format("{}: base {} must be above 0 and finite", op, base)};
  if (x.empty()) return {};
  constexpr std::int64_t kMostPositions = 1 << 24;  // beyond, positions are not exact in f32
  if (Status bad = starts(op, start, kMostPositions - sequence); !bad.ok()) return bad;
  const auto table = rope_rows(start, sequence, head_size, base);
  if (!table.ok()) return table.status();
  Batch rows;  // one for each of the table
  rows.positions.resize(table->size() / static_cast<std::size_t>(head_size));
  rows.ids.resize(rows.positions.size());
  std::iota(rows.positions.begin(), rows.positions.end(), 0);
  Staging s(*backend_);
  float *dx = s.in(x), *dt = s.in(*table);
  if (s.ok()) {
    backend_->begin_step(rows);
    backend_->rope_store(
        {dx, nullptr, nullptr, nullptr, dt, rows.n_rows(), heads, 0, head_size, head_size, 0});
    backend_->end_step();
  }
  return s.out(x, dx);
}

Status Ops::attention_scores_batch_f32(std::span<const float> q, std::span<const float> k,
                                       std::span<float> scores, std::span<const std::int32_t> start,
                                       int batch, int queries, int keys, int heads, int kv_heads,
                                       int head_size) {
  constexpr std::string_view op = "attention_scores_batch_f32";
  const Factor b{"batch", batch}, i{"queries", queries}, j{"keys", keys}, h{"heads", heads},
      kh{"kv_heads", kv_heads}, d{"head_size", head_size};
  if (Status bad = first_error({size(op, "q", q, {b, i, h, d}), size(op, "k", k, {b, j, kh, d}),
                                size(op, "scores", scores, {b, h, i, j}),
                                size(op, "start", start, {b}), divides(op, heads, kv_heads),
                                starts(op, start, std::numeric_limits<std::int32_t>::max())});
      !bad.ok())
    return bad;
  if (head_size < 1)
    return {Code::invalid_argument,
            fmt::format("{}: head_size {} must be at least 1", op, head_size)};
  if (scores.empty()) return {};
  Staging s(*backend_);
  float *dq = s.in(q), *dk = s.in(k), *ds = s.room(scores.size());
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
  if (s.ok())
    backend_->attention_scores(
        {dq, dk, ds, batch, queries, keys, heads, kv_heads, head_size, start.data(), scale});
  return s.out(scores, ds);
}

Status Ops::softmax_max_batch_f32(std::span<const float> x, std::span<float> max, int rows,
                                  int columns) {
  constexpr std::string_view op = "softmax_max_batch_f32";
  const Factor r{"rows", rows}, c{"columns", columns};
  if (Status bad = first_error({size(op, "x", x, {r, c}), size(op, "max", max, {r})}); !bad.ok())
    return bad;
  if (x.empty()) {  // of no columns: what no number is below
    std::fill(max.begin(), max.end(), -std::numeric_limits<float>::infinity());
    return {};
  }
  Staging s(*backend_);
  float *dx = s.in(x), *dm = s.room(max.size());
  if (s.ok()) backend_->softmax_max({dx, dm, nullptr, rows, columns});
  return s.out(max, dm);
}

Status Ops::softmax_exp_sum_f32(std::span<float> x, std::span<const float> max,
                                std::span<float> sum, int rows, int columns) {
  constexpr std::string_view op = "softmax_exp_sum_f32";
  const Factor r{"rows", rows}, c{"columns", columns};
  if (Status bad = first_error(
          {size(op, "x", x, {r, c}), size(op, "max", max, {r}), size(op, "sum", sum, {r})});
      !bad.ok())
    return bad;
  if (x.empty()) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    return {};
  }
  Staging s(*backend_);
  float *dx = s.in(x), *dm = s.in(max), *dsum = s.room(sum.size());
  if (s.ok()) backend_->softmax_exp_sum({dx, dm, dsum, rows, columns});
  return first_error({s.out(x, dx), s.out(sum, dsum)});
}

Status Ops::softmax_normalize_f32(std::span<float> x, std::span<const float> sum, int rows,
                                  int columns) {
  constexpr std::string_view op = "softmax_normalize_f32";
  const Factor r{"rows", rows}, c{"columns", columns};
  if (Status bad = first_error({size(op, "x", x, {r, c}), size(op, "sum", sum, {r})}); !bad.ok())
    return bad;
  if (x.empty()) return {};
  Staging s(*backend_);
  float *dx = s.in(x), *dsum = s.in(sum);
  if (s.ok()) backend_->softmax_normalize({dx, nullptr, dsum, rows, columns});
  return s.out(x, dx);
}

Status Ops::apply_attention_batch_f32(std::span<const float> weights, std::span<const float> v,
                                      std::span<float> out, int batch, int queries, int keys,
                                      int heads, int kv_heads, int head_size) {
  constexpr std::string_view op = "apply_attention_batch_f32";
  const Factor b{"batch", batch}, i{"queries", queries}, j{"keys", keys}, h{"heads", heads},
      kh{"kv_heads", kv_heads}, d{"head_size", head_size};
  if (Status bad =
          first_error({size(op, "weights", weights, {b, h, i, j}), size(op, "v", v, {b, j, kh, d}),
                       size(op, "out", out, {b, i, h, d}), divides(op, heads, kv_heads)});
      !bad.ok())
    return bad;
  if (out.empty()) return {};
  Staging s(*backend_);
  float *dw = s.in(weights), *dv = s.in(v), *dout = s.room(out.size());
  if (s.ok())
    backend_->apply_attention({dw, dv, dout, batch, queries, keys, heads, kv_heads, head_size});
  return s.out(out, dout);
}

Status Ops::batch_matmul(std::span<const float> x, std::span<const std::byte> w,
                         std::string_view type, std::span<float> out, int rows, int inputs,
                         int outputs) {
  constexpr std::string_view op = "batch_matmul";
  const quant::TypeInfo* info = quant::find_type(type);
  if (info == nullptr)
    return {Code::unsupported,
            fmt::format("{}: weight type \"{}\" is not one of {}", op, type, type_names())};
  const Factor r{"rows", rows}, k{"inputs", inputs}, n{"outputs", outputs};
  if (Status bad = first_error({size(op, "x", x, {r, k}), size(op, "out", out, {r, n})}); !bad.ok())
    return bad;
  if (inputs % info->block != 0)
    return {Code::invalid_argument,
            fmt::format("{}: inputs {} must be a multiple of {}, the block of {}", op, inputs,
                        info->block, type)};
  if (Status bad =
          size(op, "w", w, {n, {"blocks", inputs / info->block}, {"block_bytes", info->bytes}});
      !bad.ok())
    return bad;
  if (out.empty()) return {};
  if (inputs == 0) {
    std::fill(out.begin(), out.end(), 0.0f);
    return {};
  }
  Staging s(*backend_);
  const MatrixId matrix = s.matrix(info->type, outputs, inputs, w);
  void* dx = s.activations(x);
  float* dout = s.room(out.size());
  s.scratch(rows, inputs);
  if (s.ok()) backend_->matmul({dx, rows, 1, {matrix}, {dout}});
  return s.out(out, dout);
}

Status Ops::element_wise_add(std::span<const float> a, std::span<const float> b,
                             std::span<float> out) {
  constexpr std::string_view op = "element_wise_add";
  const Factor n{"size of a", std::ssize(a)};
  if (Status bad = first_error({size(op, "b", b, {n}), size(op, "out", out, {n})}); !bad.ok())
    return bad;
  if (a.empty()) return {};
  Staging s(*backend_);
  float *da = s.in(a), *db = s.in(b);
  if (s.ok()) backend_->add({da, db, da, std::ssize(a)});
  return s.out(out, da);
}

Status Ops::swiglu_activation(std::span<const float> gate, std::span<const float> up,
                              std::span<float> out) {
  constexpr std::string_view op = "swiglu_activation";
  const Factor n{"size of gate", std::ssize(gate)};
  if (Status bad = first_error({size(op, "up", up, {n}), size(op, "out", out, {n})}); !bad.ok())
    return bad;
  if (gate.empty()) return {};
  Staging s(*backend_);
  float *dg = s.in(gate), *du = s.in(up);
  if (s.ok()) backend_->swiglu({dg, du, dg, std::ssize(gate)});
  return s.out(out, dg);
}

}  // namespace herd
