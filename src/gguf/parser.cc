#include "gguf/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <numeric>

namespace herd::gguf {
namespace {

/// Least bytes one element of `type` takes in a file.
std::uint64_t min_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean: return 1;
    case ValueType::u16:
    case ValueType::i16: return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32: return 4;
    case ValueType::array: return 12;
    default: return 8;
  }
}

template <class Item, class Name>
std::vector<std::uint32_t> sorted_order(const std::vector<Item>& items, Name name) {
  std::vector<std::uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return items[a].*name < items[b].*name; });
  return order;
}

}  // namespace

Error Parser::corrupt(std::string message) const {
  return {Code::corrupt, subject_.empty() ? std::move(message) : subject_ + ": " + message};
}

Error Parser::truncated(std::string_view what) const {
  if (!reader_.source_status().ok()) return reader_.source_status().error();
  return corrupt(fmt::format("the file ends inside {} (at byte {} of {})", what, reader_.offset(),
                             reader_.size()));
}

Error Parser::too_many(std::string_view what, std::uint64_t count, std::uint64_t least) const {
  return corrupt(fmt::format("{} {} need at least {} bytes each, the file has {} left", count, what,
                             least, reader_.remaining()));
}

Status Parser::charge(ByteSize bytes) {
  if (budget_.charge(bytes)) return {};
  const std::string prefix = subject_.empty() ? "header" : subject_;
  return Error{Code::unsupported,
               fmt::format("{}: would take more memory than the {} bytes allowed for the header",
                           prefix, budget_.limit())};
}

// ---- the whole ----

Status Parser::parse(File& file) {
  if (Status s = read_preamble(); !s) return s;
  const std::uint64_t before = budget_.used();
  if (Status s = read_metadata(); !s) return s;
  file.key_order_.clear();
  file.metadata_ = std::move(metadata_);
  file.version_ = version_;
  if (Status s = index_keys(file); !s) return s;
  metadata_bytes_ = budget_.used() - before;
  if (Status s = read_alignment(file); !s) return s;
  const std::size_t first = file.tensors_.size();
  if (Status s = read_tensors(file); !s) return s;
  return place_tensors(file, first);
}

Status Parser::read_preamble() {
  std::uint32_t magic = 0;
  if (!reader_.get(magic)) return truncated("the magic");
  if (magic != kMagic)
    return corrupt(fmt::format("not a GGUF file: it starts with {:08x}, wanted {:08x} (\"GGUF\")",
                               __builtin_bswap32(magic), __builtin_bswap32(kMagic)));
  if (!reader_.get(version_)) return truncated("the version");
  if ((version_ & 0xffffu) == 0 && version_ != 0)
    return Error{Code::unsupported,
                 fmt::format("big-endian GGUF (version {:#010x}); wanted little-endian", version_)};
  if (version_ != 2 && version_ != 3)
    return Error{Code::unsupported, fmt::format("GGUF version {}; wanted 2 or 3", version_)};
  if (!reader_.get(tensor_count_)) return truncated("the tensor count");
  if (!reader_.get(key_count_)) return truncated("the metadata count");
  constexpr std::uint64_t kMinKey = 8 + 1 + 4 + 1, kMinTensor = 8 + 1 + 4 + 8 + 4 + 8;
  if (key_count_ > reader_.remaining() / kMinKey)
    return too_many("metadata keys", key_count_, kMinKey);
  if (tensor_count_ > reader_.remaining() / kMinTensor)
    return too_many("tensors", tensor_count_, kMinTensor);
  return {};
}

// ---- metadata ----

Status Parser::read_metadata() {
  if (Status s = charge(ByteSize(key_count_) * (sizeof(KeyValue) + 4)); !s) return s;
  metadata_.reserve(key_count_);
  for (std::uint64_t i = 0; i < key_count_; ++i) {
    subject_ = fmt::format("metadata entry {}", i);
    if (Status s = read_key_value(metadata_.emplace_back()); !s) return s;
  }
  subject_.clear();
  return {};
}

Status Parser::read_key_value(KeyValue& entry) {
  if (Status s = read_text(entry.key, kMaxKeyBytes, "its key"); !s) return s;
  if (entry.key.empty()) return corrupt("its key is empty");
  subject_ = "key " + quoted(entry.key);
  ValueType type{};
  if (Status s = read_type(type, "value type"); !s) return s;
  return read_value(entry.value, type, 0);
}

Status Parser::read_type(ValueType& type, std::string_view what) {
  std::uint32_t number = 0;
  if (!reader_.get(number)) return truncated(fmt::format("its {}", what));
  if (number > static_cast<std::uint32_t>(ValueType::f64))
    return corrupt(fmt::format("{} {} is unknown; wanted 0 to 12", what, number));
  type = static_cast<ValueType>(number);
  return {};
}

Status Parser::read_text(std::string& text, std::uint64_t max_bytes, std::string_view what) {
  std::uint64_t length = 0;
  if (!reader_.get(length)) return truncated(fmt::format("the length of {}", what));
  if (length > reader_.remaining())
    return corrupt(fmt::format("{} of {} bytes is longer than the {} bytes left in the file", what,
                               length, reader_.remaining()));
  if (length > max_bytes)
    return corrupt(fmt::format("{} has {} bytes; the limit is {}", what, length, max_bytes));
  if (length > 15)  // shorter ones need no memory of their own
    if (Status s = charge(std::max<std::uint64_t>(length, 30) + 1); !s) return s;
  text.resize(static_cast<std::size_t>(length));
  if (!reader_.read(std::as_writable_bytes(std::span(text)))) return truncated(what);
  return {};
}

Status Parser::read_value(Value& value, ValueType type, int depth) {
  value.type = type;
  if (type == ValueType::string) return read_text(value.text, reader_.size(), "its string");
  if (type == ValueType::array) return read_array(value, depth + 1);
  return read_scalar(value);
}

Status Parser::read_scalar(Value& value) {
  auto take = [&](auto raw, auto& field) -> Status {
    if (!reader_.get(raw)) return truncated(fmt::format("its {} value", to_string(value.type)));
    field = raw;
    return {};
  };
  switch (value.type) {
    case ValueType::u8: return take(std::uint8_t{}, value.unsigned_value);
    case ValueType::u16: return take(std::uint16_t{}, value.unsigned_value);
    case ValueType::u32: return take(std::uint32_t{}, value.unsigned_value);
    case ValueType::u64: return take(std::uint64_t{}, value.unsigned_value);
    case ValueType::i8: return take(std::int8_t{}, value.signed_value);
    case ValueType::i16: return take(std::int16_t{}, value.signed_value);
    case ValueType::i32: return take(std::int32_t{}, value.signed_value);
    case ValueType::i64: return take(std::int64_t{}, value.signed_value);
    case ValueType::f32: return take(float{}, value.real_value);
    case ValueType::f64: return take(double{}, value.real_value);
    case ValueType::boolean: return read_boolean(value.unsigned_value);
    default: return Error{Code::internal, "read_scalar of a string or an array"};
  }
}

Status Parser::read_boolean(std::uint64_t& out) {
  std::uint8_t byte = 0;
  if (!reader_.get(byte)) return truncated("its bool value");
  if (byte > 1) return corrupt(fmt::format("a bool is {}; wanted 0 or 1", byte));
  out = byte;
  return {};
}

Status Parser::read_array(Value& value, int depth) {
  if (depth > kMaxArrayDepth)
    return corrupt(fmt::format("arrays nested {} deep; the limit is {}", depth, kMaxArrayDepth));
  if (Status s = read_type(value.element, "array element type"); !s) return s;
  std::uint64_t count = 0;
  if (!reader_.get(count)) return truncated("its array length");
  if (count > reader_.remaining() / min_bytes(value.element))
    return too_many(fmt::format("array elements of type {}", to_string(value.element)), count,
                    min_bytes(value.element));
  return read_elements(value, count, depth);
}

Status Parser::read_elements(Value& value, std::uint64_t count, int depth) {
  switch (value.element) {
    case ValueType::u8: return read_widened<std::uint8_t>(value.unsigned_array, count);
    case ValueType::u16: return read_widened<std::uint16_t>(value.unsigned_array, count);
    case ValueType::u32: return read_widened<std::uint32_t>(value.unsigned_array, count);
    case ValueType::u64: return read_plain(value.unsigned_array, count);
    case ValueType::i8: return read_widened<std::int8_t>(value.signed_array, count);
    case ValueType::i16: return read_widened<std::int16_t>(value.signed_array, count);
    case ValueType::i32: return read_widened<std::int32_t>(value.signed_array, count);
    case ValueType::i64: return read_plain(value.signed_array, count);
    case ValueType::f32: return read_plain(value.float_array, count);
    case ValueType::f64: return read_plain(value.double_array, count);
    case ValueType::boolean: return read_booleans(value.unsigned_array, count);
    case ValueType::string: return read_strings(value, count);
    case ValueType::array: return read_nested(value, count, depth);
  }
  return Error{Code::internal, "array element type was not checked"};
}

template <class T>
Status Parser::read_plain(std::vector<T>& out, std::uint64_t count) {
  if (Status s = charge(ByteSize(count) * sizeof(T)); !s) return s;
  out.resize(static_cast<std::size_t>(count));
  if (!reader_.read(std::as_writable_bytes(std::span(out)))) return truncated("its array");
  return {};
}

template <class T, class Wide>
Status Parser::read_widened(std::vector<Wide>& out, std::uint64_t count) {
  if (Status s = charge(ByteSize(count) * sizeof(Wide)); !s) return s;
  out.resize(static_cast<std::size_t>(count));
  for (Wide& element : out) {
    T raw{};
    if (!reader_.get(raw)) return truncated("its array");
    element = raw;
  }
  return {};
}

Status Parser::read_booleans(std::vector<std::uint64_t>& out, std::uint64_t count) {
  if (Status s = charge(ByteSize(count) * sizeof(std::uint64_t)); !s) return s;
  out.resize(static_cast<std::size_t>(count));
  for (std::uint64_t& element : out)
    if (Status s = read_boolean(element); !s) return s;
  return {};
}

Status Parser::read_strings(Value& value, std::uint64_t count) {
  if (Status s = charge(ByteSize(count) * sizeof(std::string)); !s) return s;
  value.text_array.resize(static_cast<std::size_t>(count));
  for (std::string& text : value.text_array)
    if (Status s = read_text(text, reader_.size(), "an array's string"); !s) return s;
  return {};
}

Status Parser::read_nested(Value& value, std::uint64_t count, int depth) {
  if (Status s = charge(ByteSize(count) * sizeof(Value)); !s) return s;
  value.nested.resize(static_cast<std::size_t>(count));
  for (Value& inner : value.nested)
    if (Status s = read_value(inner, ValueType::array, depth); !s) return s;
  return {};
}

Status Parser::index_keys(File& file) {
  const auto& metadata = file.metadata_;
  file.key_order_ = sorted_order(metadata, &KeyValue::key);
  for (std::size_t i = 1; i < metadata.size(); ++i) {
    const std::string& key = metadata[file.key_order_[i]].key;
    if (key == metadata[file.key_order_[i - 1]].key)
      return corrupt(fmt::format("key {} stands twice in the metadata", quoted(key)));
  }
  return {};
}

Status Parser::read_alignment(const File& file) {
  const Value* value = file.find(kAlignmentKey);
  if (value == nullptr) return {};
  if (value->type != ValueType::u32)
    return corrupt(fmt::format("key {}: found {}, wanted {}", quoted(kAlignmentKey),
                               to_string(value->type), to_string(ValueType::u32)));
  const std::uint64_t alignment = value->unsigned_value;
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment)
    return corrupt(fmt::format("key {}: {} is not a power of two from 1 to {}",
                               quoted(kAlignmentKey), alignment, kMaxAlignment));
  alignment_ = static_cast<std::uint32_t>(alignment);
  return {};
}

}  // namespace herd::gguf
