// From a checked file to weights on a backend, driven by the tensor table; and the plan of what
// that takes, from the same code.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "gguf/reader.h"
#include "model/loader.h"

namespace herd {
namespace {

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Status check_tensor(const gguf::TensorInfo& tensor, const TensorSpec& spec) {
  const std::size_t dims = spec.matrix ? 2 : 1;
  if (tensor.columns() != spec.columns || tensor.rows() != spec.rows || tensor.shape.size() != dims)
    return {Code::corrupt,
            fmt::format("{}: shape {}, must be [{}{}]", spec.name, shape_text(tensor.shape),
                        spec.columns, spec.matrix ? fmt::format(", {}", spec.rows) : "")};
  using quant::Type;
  if (!spec.matrix && tensor.type != Type::F32 && tensor.type != Type::F16 &&
      tensor.type != Type::BF16)
    return {Code::unsupported, fmt::format("{}: type {}, must be F32, F16 or BF16", spec.name,
                                           quant::type_info(tensor.type).name)};
  return {};
}

/// Norms and frequencies: few values, kept as f32.
Result<std::vector<float>> read_vector(const gguf::File& file, const gguf::TensorInfo& tensor) {
  std::vector<std::byte> raw(static_cast<std::size_t>(tensor.bytes));
  if (Status status = file.read(tensor, 0, raw); !status.ok()) return status.error();
  std::vector<float> values(static_cast<std::size_t>(tensor.columns()));
  quant::dequantize(tensor.type, raw, values);
  return values;
}

}  // namespace

Status check_tensors(const gguf::File& file, std::span<const TensorSpec> table) {
  std::unordered_set<std::string_view> known;
  for (const TensorSpec& spec : table) {
    known.insert(spec.name);
    const gguf::TensorInfo* tensor = file.find_tensor(spec.name);
    if (tensor == nullptr) {
      if (spec.optional) continue;
      return {Code::corrupt, fmt::format("{}: the file has no such tensor", spec.name)};
    }
    if (Status status = check_tensor(*tensor, spec); !status.ok()) return status;
  }
  for (const gguf::TensorInfo& tensor : file.tensors())
    if (!known.contains(tensor.name))
      return {
          Code::unsupported,
          fmt::format(
              "tensor {}: this architecture has no such tensor; ignoring it would change results",
              gguf::quoted(tensor.name))};
  return {};
}

Result<std::vector<float>> make_rope_table(const ModelConfig& c, std::int32_t context,
                                           std::span<const float> factors, std::int32_t first) {
  const std::int32_t half = c.rope_size / 2;
  std::vector<float> inverse(static_cast<std::size_t>(half));
  for (std::int32_t i = 0; i < half; ++i) {
    float f =
        static_cast<float>(std::pow(static_cast<double>(c.rope_base), -2.0 * i / c.rope_size));
    if (!factors.empty()) {
      const float factor = factors[static_cast<std::size_t>(i)];
      if (!(factor > 0) || !std::isfinite(factor))
        return Error{
            Code::corrupt,
            fmt::format("rope_freqs.weight[{}] = {}: must be above 0 and finite", i, factor)};
      f /= factor;
    }
    inverse[static_cast<std::size_t>(i)] = f / c.rope_scale;
  }
  std::vector<float> table;
  table.reserve(static_cast<std::size_t>(context - first) * static_cast<std::size_t>(c.rope_size));
  for (std::int32_t position = first; position < context; ++position) {
    for (const float f : inverse) {
      const float angle = static_cast<float>(position) * f;
      table.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
      table.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  }
  return table;
}

Loader::Loader(const gguf::File& file, Backend& backend, const ProgressFn& progress)
    : file_(file), backend_(backend), progress_(progress) {
  for (const gguf::TensorInfo& tensor : file.tensors())
    total_ += static_cast<std::int64_t>(tensor.bytes);
}

MatrixId Loader::matrix(const std::string& name, MatrixUse use) {
  if (!status_.ok()) return {};
  const gguf::TensorInfo& tensor = *file_.find_tensor(name);
  const std::int64_t row_bytes = quant::row_bytes(tensor.type, tensor.columns());
  MatrixSource source{tensor.name, tensor.type, tensor.rows(), tensor.columns(), {}, use};
  source.read = [&](std::int64_t first, std::int64_t, std::span<std::byte> out) {
    Status status = file_.read(tensor, static_cast<std::uint64_t>(first * row_bytes), out);
    advance(static_cast<std::int64_t>(out.size()));
    return status;
  };
  source.mapping = mapping(tensor.part);
  source.offset = tensor.offset;
  const auto id = backend_.load_matrix(source);
  if (!id.ok()) status_ = id.status();
  return id.ok() ? *id : MatrixId{};
}

/// Null where it is of no use or cannot be had: then weights are read.
std::shared_ptr<const FileMapping> Loader::mapping(std::int32_t part) {
  if (!backend_.reads_mappings()) return nullptr;
  const auto i = static_cast<std::size_t>(part);
  if (mappings_.size() <= i) mappings_.resize(i + 1);
  if (mappings_[i] == nullptr)
    if (auto mapped = file_.map(part); mapped.ok()) mappings_[i] = *std::move(mapped);
  return mappings_[i];
}

float* Loader::vector(const std::string& name) {
  if (!status_.ok()) return nullptr;
  const auto values = read_vector(file_, *file_.find_tensor(name));
  if (!values.ok()) {
    status_ = values.status();
    return nullptr;
  }
  advance(static_cast<std::int64_t>(file_.find_tensor(name)->bytes));
  return floats(*values);
}

float* Loader::floats(std::span<const float> values) {
  float* p = buffer(std::ssize(values));
  if (p != nullptr) backend_.upload(p, values.data(), std::ssize(values) * 4);
  return p;
}

float* Loader::buffer(std::int64_t n) {
  return static_cast<float*>(take(n * 4));
}
void* Loader::activations(std::int64_t n) {
  return take(n * backend_.activation_bytes());
}
void* Loader::take(std::int64_t bytes) {
  if (!status_.ok()) return nullptr;
  const auto p = backend_.allocate(bytes);
  if (!p.ok()) status_ = p.status();
  return p.ok() ? *p : nullptr;
}

float* Loader::rope_table(const ModelConfig& config, std::int32_t context) {
  std::vector<float> factors;
  if (const gguf::TensorInfo* tensor = file_.find_tensor("rope_freqs.weight"); tensor != nullptr) {
    auto values = read_vector(file_, *tensor);
    if (!values.ok())
      fail(values.status());
    else
      factors = std::move(*values);
    advance(static_cast<std::int64_t>(tensor->bytes));
  }
  if (!status_.ok()) return nullptr;
  const auto table = make_rope_table(config, context, factors);
  if (!table.ok()) status_ = table.status();
  return table.ok() ? floats(*table) : nullptr;
}

void Loader::advance(std::int64_t bytes) {
  done_ += bytes;
  if (progress_) progress_(std::min(done_, total_), total_);
}

}  // namespace herd
