// Writes v3 files: header first, then each tensor's bytes as they are produced.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <set>
#include <system_error>

#include "gguf/parser.h"

namespace herd::gguf {
namespace {

using Bytes = std::vector<std::byte>;

void put_bytes(Bytes& out, const void* data, std::size_t size) {
  const auto* first = static_cast<const std::byte*>(data);
  out.insert(out.end(), first, first + size);
}
template <class T>
void put(Bytes& out, T value) {
  put_bytes(out, &value, sizeof value);
}
void put_text(Bytes& out, std::string_view text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  put_bytes(out, text.data(), text.size());
}

/// One integer in the width its type has in the file.
void put_integer(Bytes& out, ValueType type, std::uint64_t value) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean: return put(out, static_cast<std::uint8_t>(value));
    case ValueType::u16:
    case ValueType::i16: return put(out, static_cast<std::uint16_t>(value));
    case ValueType::u32:
    case ValueType::i32: return put(out, static_cast<std::uint32_t>(value));
    default: return put(out, value);
  }
}

void put_value(Bytes& out, const Value& value);

void put_array(Bytes& out, const Value& value) {
  put(out, static_cast<std::uint32_t>(value.element));
  put(out, static_cast<std::uint64_t>(value.array_size()));
  for (const std::uint64_t v : value.unsigned_array) put_integer(out, value.element, v);
  for (const std::int64_t v : value.signed_array)
    put_integer(out, value.element, static_cast<std::uint64_t>(v));
  for (const float v : value.float_array) put(out, v);
  for (const double v : value.double_array) put(out, v);
  for (const std::string& v : value.text_array) put_text(out, v);
  for (const Value& v : value.nested) put_array(out, v);
}

void put_value(Bytes& out, const Value& value) {
  switch (value.type) {
    case ValueType::string: return put_text(out, value.text);
    case ValueType::array: return put_array(out, value);
    case ValueType::f32: return put(out, static_cast<float>(value.real_value));
    case ValueType::f64: return put(out, value.real_value);
    case ValueType::i8:
    case ValueType::i16:
    case ValueType::i32:
    case ValueType::i64:
      return put_integer(out, value.type, static_cast<std::uint64_t>(value.signed_value));
    default: return put_integer(out, value.type, value.unsigned_value);
  }
}

std::uint64_t alignment_of(const std::vector<KeyValue>& metadata) {
  for (const KeyValue& entry : metadata) {
    const std::uint64_t alignment = entry.value.unsigned_value;
    if (entry.key == kAlignmentKey && std::has_single_bit(alignment) && alignment <= kMaxAlignment)
      return alignment;
  }
  return kDefaultAlignment;
}

/// The header, padded to where the data starts.
template <class Pending>
Bytes header(const std::vector<KeyValue>& metadata, const std::vector<Pending>& tensors) {
  Bytes out;
  put(out, kMagic);
  put(out, std::uint32_t{3});
  put(out, static_cast<std::uint64_t>(tensors.size()));
  put(out, static_cast<std::uint64_t>(metadata.size()));
  for (const KeyValue& entry : metadata) {
    put_text(out, entry.key);
    put(out, static_cast<std::uint32_t>(entry.value.type));
    put_value(out, entry.value);
  }
  const std::uint64_t alignment = alignment_of(metadata);
  ByteSize offset = 0;
  for (const Pending& tensor : tensors) {
    put_text(out, tensor.info.name);
    put(out, static_cast<std::uint32_t>(tensor.info.shape.size()));
    for (const std::int64_t size : tensor.info.shape) put(out, size);
    put(out, static_cast<std::uint32_t>(tensor.info.type));
    put(out, offset.value());
    offset = (offset + ByteSize(tensor.info.bytes)).aligned(alignment);
  }
  out.resize(ByteSize(out.size()).aligned(alignment).value());
  return out;
}

/// 0 if the shape is no good; validate() says why.
std::uint64_t tensor_bytes(const TensorInfo& tensor) {
  const quant::TypeInfo& type = quant::type_info(tensor.type);
  ByteSize values = 1;
  for (const std::int64_t size : tensor.shape) {
    if (size < 1) return 0;
    values = values * ByteSize(static_cast<std::uint64_t>(size));
  }
  if (!values.within(std::numeric_limits<std::int64_t>::max())) return 0;
  const ByteSize bytes = ByteSize(values.value() / static_cast<std::uint64_t>(type.block)) *
                         ByteSize(static_cast<std::uint64_t>(type.bytes));
  return bytes.within(std::numeric_limits<std::int64_t>::max()) ? bytes.value() : 0;
}

Status validate(const TensorInfo& tensor) {
  const quant::TypeInfo& type = quant::type_info(tensor.type);
  auto bad = [&](std::string why) {
    return Error{Code::invalid_argument,
                 fmt::format("tensor {}: {}", quoted(tensor.name), std::move(why))};
  };
  if (tensor.name.empty() || tensor.name.size() > kMaxTensorNameBytes)
    return bad(fmt::format("its name has {} bytes; wanted 1 to {}", tensor.name.size(),
                           kMaxTensorNameBytes));
  if (tensor.shape.empty() || tensor.shape.size() > kMaxDimensions)
    return bad(fmt::format("{} dimensions; wanted 1 to {}", tensor.shape.size(), kMaxDimensions));
  if (tensor.shape[0] % type.block != 0)
    return bad(fmt::format("row length {} is not a multiple of {}'s block of {}", tensor.shape[0],
                           type.name, type.block));
  if (tensor.bytes == 0)
    return bad(
        fmt::format("dimensions [{}] are below 1 or overflow", fmt::join(tensor.shape, ", ")));
  return {};
}

Status validate(const KeyValue& entry) {
  const std::uint64_t alignment = entry.value.unsigned_value;
  if (entry.key.empty() || entry.key.size() > kMaxKeyBytes)
    return Error{Code::invalid_argument,
                 fmt::format("key {} has {} bytes; wanted 1 to {}", quoted(entry.key),
                             entry.key.size(), kMaxKeyBytes)};
  if (entry.key == kAlignmentKey && (entry.value.type != ValueType::u32 ||
                                     !std::has_single_bit(alignment) || alignment > kMaxAlignment))
    return Error{Code::invalid_argument,
                 fmt::format("key {}: {} is not a uint32 power of two from 1 to {}",
                             quoted(entry.key), alignment, kMaxAlignment)};
  return {};
}

template <class Pending>
Status validate_all(const std::vector<KeyValue>& metadata, const std::vector<Pending>& tensors) {
  for (const KeyValue& entry : metadata)
    if (Status s = validate(entry); !s) return s;
  std::set<std::string_view> names;
  for (const Pending& tensor : tensors) {
    if (Status s = validate(tensor.info); !s) return s;
    if (!names.insert(tensor.info.name).second)
      return Error{Code::invalid_argument,
                   fmt::format("tensor {} was added twice", quoted(tensor.info.name))};
  }
  return {};
}

/// Sends header, padding and checked tensors to sink(bytes) -> Status, in file order.
template <class Pending, class Sink>
Status produce(const std::vector<KeyValue>& metadata, const std::vector<Pending>& tensors,
               const Sink& sink) {
  if (Status s = sink(header(metadata, tensors)); !s) return s;
  const std::uint64_t alignment = alignment_of(metadata);
  for (const Pending& tensor : tensors) {
    Bytes bytes(ByteSize(tensor.info.bytes).aligned(alignment).value());
    tensor.fill(std::span(bytes).first(tensor.info.bytes));
    if (Status s = sink(bytes); !s) return s;
  }
  return {};
}

/// A file being written under a temporary name; removed unless it is kept.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path)
      : path_(path), temporary_(fmt::format("{}.tmp-{}", path, ::getpid())) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    ::unlink(temporary_.c_str());
  }

  Status create() {
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return descriptor_ < 0 ? failed("cannot create") : Status();
  }
  Status append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t wanted = std::min<std::size_t>(bytes.size(), std::size_t{1} << 30);
      const ssize_t done = ::write(descriptor_, bytes.data(), wanted);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) return failed("cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
    return {};
  }
  Status keep() {
    if (::fsync(descriptor_) != 0) return failed("cannot write");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return failed("cannot rename into place");
    ::close(std::exchange(descriptor_, -1));
    return {};
  }

 private:
  Status failed(const char* what) const {
    return Error{Code::io,
                 fmt::format("{}: {}: {}", path_, what, std::generic_category().message(errno))};
  }
  std::string path_, temporary_;
  int descriptor_ = -1;
};

Value scalar(ValueType type) {
  Value value;
  value.type = type;
  return value;
}
Value array(ValueType element) {
  Value value = scalar(ValueType::array);
  value.element = element;
  return value;
}

}  // namespace

void Writer::add(std::string_view key, const Value& value) {
  for (KeyValue& entry : metadata_)
    if (entry.key == key) {  // the last word counts
      entry.value = value;
      return;
    }
  metadata_.push_back({std::string(key), value});
}
void Writer::add(std::string_view key, std::uint32_t value) {
  Value v = scalar(ValueType::u32);
  v.unsigned_value = value;
  add(key, v);
}
void Writer::add(std::string_view key, std::int32_t value) {
  Value v = scalar(ValueType::i32);
  v.signed_value = value;
  add(key, v);
}
void Writer::add(std::string_view key, std::uint64_t value) {
  Value v = scalar(ValueType::u64);
  v.unsigned_value = value;
  add(key, v);
}
void Writer::add(std::string_view key, float value) {
  Value v = scalar(ValueType::f32);
  v.real_value = value;
  add(key, v);
}
void Writer::add(std::string_view key, bool value) {
  Value v = scalar(ValueType::boolean);
  v.unsigned_value = value ? 1 : 0;
  add(key, v);
}
void Writer::add(std::string_view key, std::string_view value) {
  Value v = scalar(ValueType::string);
  v.text = value;
  add(key, v);
}
void Writer::add(std::string_view key, std::span<const std::string> values) {
  Value v = array(ValueType::string);
  v.text_array.assign(values.begin(), values.end());
  add(key, v);
}
void Writer::add(std::string_view key, std::span<const float> values) {
  Value v = array(ValueType::f32);
  v.float_array.assign(values.begin(), values.end());
  add(key, v);
}
void Writer::add(std::string_view key, std::span<const std::int32_t> values) {
  Value v = array(ValueType::i32);
  v.signed_array.assign(values.begin(), values.end());
  add(key, v);
}

void Writer::add_tensor(std::string_view name, quant::Type type, std::vector<std::int64_t> shape,
                        Fill fill) {
  PendingTensor tensor;
  tensor.info.name = name;
  tensor.info.type = type;
  tensor.info.shape = std::move(shape);
  tensor.info.bytes = tensor_bytes(tensor.info);
  tensor.fill = std::move(fill);
  tensors_.push_back(std::move(tensor));
}

std::uint64_t Writer::file_bytes() const {
  const std::uint64_t alignment = alignment_of(metadata_);
  ByteSize total = header(metadata_, tensors_).size();
  for (const PendingTensor& tensor : tensors_)
    total = total + ByteSize(tensor.info.bytes).aligned(alignment);
  return total.value();
}

Result<std::vector<std::byte>> Writer::to_bytes() const {
  if (Status s = validate_all(metadata_, tensors_); !s) return s.error();
  Bytes out;
  out.reserve(file_bytes());
  const Status status = produce(metadata_, tensors_, [&](const Bytes& bytes) -> Status {
    out.insert(out.end(), bytes.begin(), bytes.end());
    return {};
  });
  if (!status) return status.error();
  return out;
}

Status Writer::write(const std::string& path, const ProgressFn& progress) const {
  if (Status s = validate_all(metadata_, tensors_); !s) return s;
  TemporaryFile file(path);
  if (Status s = file.create(); !s) return s;
  const auto total = static_cast<std::int64_t>(file_bytes());
  std::int64_t done = 0;
  const Status status = produce(metadata_, tensors_, [&](const Bytes& bytes) -> Status {
    if (Status s = file.append(bytes); !s) return s;
    done += static_cast<std::int64_t>(bytes.size());
    if (progress) progress(done, total);
    return {};
  });
  return status.ok() ? file.keep() : status;
}

}  // namespace herd::gguf
