// The parser's second half: tensor entries, their types, sizes and places.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "gguf/parser.h"

namespace herd::gguf {
namespace {

std::string shown_type(std::uint32_t number) {
  const std::string_view name = quant::gguf_type_name(number);
  return name.empty() ? fmt::format("unknown tensor type {}", number)
                      : fmt::format("tensor type {}", name);
}

}  // namespace

Status Parser::read_tensors(File& file) {
  const std::uint64_t old = file.tensors_.size();
  const ByteSize entries = ByteSize(old) + ByteSize(tensor_count_);
  // Two words beside each entry: the look-up order and the overlap check.
  if (Status s = charge(entries * (sizeof(TensorInfo) + 8)); !s) return s;
  file.tensors_.reserve(static_cast<std::size_t>(entries.value()));
  budget_.release(old * (sizeof(TensorInfo) + 8));
  for (std::uint64_t i = 0; i < tensor_count_; ++i) {
    subject_ = fmt::format("tensor entry {}", i);
    if (Status s = read_tensor(file.tensors_.emplace_back()); !s) return s;
  }
  subject_.clear();
  return {};
}

Status Parser::read_tensor(TensorInfo& tensor) {
  if (Status s = read_text(tensor.name, kMaxTensorNameBytes, "its name"); !s) return s;
  if (tensor.name.empty()) return corrupt("its name is empty");
  subject_ = "tensor " + quoted(tensor.name);
  tensor.part = part_;
  if (Status s = read_shape(tensor); !s) return s;
  if (Status s = read_tensor_type(tensor); !s) return s;
  if (!reader_.get(tensor.offset)) return truncated("its offset");
  return size_tensor(tensor);
}

Status Parser::read_shape(TensorInfo& tensor) {
  std::uint32_t dimensions = 0;
  if (!reader_.get(dimensions)) return truncated("its number of dimensions");
  if (dimensions < 1 || dimensions > kMaxDimensions)
    return corrupt(fmt::format("{} dimensions; wanted 1 to {}", dimensions, kMaxDimensions));
  if (Status s = charge(ByteSize(dimensions) * sizeof(std::int64_t)); !s) return s;
  tensor.shape.resize(dimensions);
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    std::uint64_t size = 0;
    if (!reader_.get(size)) return truncated("its dimensions");
    constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
    if (size < 1 || size > kMax)
      return corrupt(fmt::format("dimension {} is {}; wanted 1 to {}", i, size, kMax));
    tensor.shape[i] = static_cast<std::int64_t>(size);
  }
  return {};
}

Status Parser::read_tensor_type(TensorInfo& tensor) {
  std::uint32_t number = 0;
  if (!reader_.get(number)) return truncated("its type");
  const quant::TypeInfo* type = quant::find_type(number);
  if (type == nullptr)
    return Error{Code::unsupported,
                 fmt::format("{}: {} is not supported", subject_, shown_type(number))};
  tensor.type = type->type;
  return {};
}

Status Parser::size_tensor(TensorInfo& tensor) {
  const quant::TypeInfo& type = quant::type_info(tensor.type);
  if (tensor.shape[0] % type.block != 0)
    return corrupt(fmt::format("row length {} is not a multiple of {}'s block of {}",
                               tensor.shape[0], type.name, type.block));
  ByteSize values = 1;
  for (const std::int64_t size : tensor.shape) values = values * static_cast<std::uint64_t>(size);
  const ByteSize bytes = ByteSize(values.value() / static_cast<std::uint64_t>(type.block)) *
                         static_cast<std::uint64_t>(type.bytes);
  // Element counts must also fit the signed 64 bits they are used as.
  if (!values.within(std::numeric_limits<std::int64_t>::max()) || !bytes.ok())
    return corrupt(fmt::format("dimensions [{}] of {} overflow 64 bits",
                               fmt::join(tensor.shape, ", "), type.name));
  tensor.bytes = bytes.value();
  return {};
}

Status Parser::place_tensors(File& file, std::size_t first) {
  const ByteSize data = ByteSize(reader_.offset()).aligned(alignment_);
  for (std::size_t i = first; i < file.tensors_.size(); ++i) {
    TensorInfo& tensor = file.tensors_[i];
    if (tensor.offset % alignment_ != 0)
      return corrupt(fmt::format("tensor {}: offset {} is not a multiple of the alignment {}",
                                 quoted(tensor.name), tensor.offset, alignment_));
    const ByteSize start = data + ByteSize(tensor.offset);
    if (!(start + ByteSize(tensor.bytes)).within(reader_.size()))
      return corrupt(fmt::format(
          "tensor {}: {} bytes at offset {} of the data (which starts at byte "
          "{}) reach beyond the file's {} bytes",
          quoted(tensor.name), tensor.bytes, tensor.offset, data.value(), reader_.size()));
    tensor.offset = start.value();
  }
  return check_overlap(file, first);
}

Status Parser::check_overlap(const File& file, std::size_t first) {
  std::vector<std::uint32_t> order(file.tensors_.size() - first);
  std::iota(order.begin(), order.end(), static_cast<std::uint32_t>(first));
  const auto& tensors = file.tensors_;
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return tensors[a].offset < tensors[b].offset;
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const TensorInfo &before = tensors[order[i - 1]], &after = tensors[order[i]];
    const ByteSize end = ByteSize(before.offset) + ByteSize(before.bytes);
    if (!end.within(after.offset))
      return corrupt(
          fmt::format("tensors {} and {} overlap: the first ends at byte {}, the second "
                      "starts at {}",
                      quoted(before.name), quoted(after.name), end.value(), after.offset));
  }
  return {};
}

Status Parser::index_tensors(File& file) {
  const auto& tensors = file.tensors_;
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name < tensors[b].name; });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (tensors[order[i]].name == tensors[order[i - 1]].name)
      return Error{Code::corrupt,
                   fmt::format("tensor {} stands twice", quoted(tensors[order[i]].name))};
  file.tensor_order_ = std::move(order);
  return {};
}

}  // namespace herd::gguf
