// Typed access to a checked File.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "gguf/gguf.h"
#include "gguf/reader.h"

namespace herd::gguf {
namespace {

bool is_unsigned(ValueType type) {
  return type == ValueType::u8 || type == ValueType::u16 || type == ValueType::u32 ||
         type == ValueType::u64;
}
bool is_signed(ValueType type) {
  return type == ValueType::i8 || type == ValueType::i16 || type == ValueType::i32 ||
         type == ValueType::i64;
}

std::string describe(const Value& value) {
  if (value.type != ValueType::array) return std::string(to_string(value.type));
  return fmt::format("array of {}", to_string(value.element));
}

Error absent(std::string_view key) {
  return {Code::not_found, fmt::format("key {} is absent", quoted(key))};
}
Error mismatch(std::string_view key, const Value& value, std::string_view wanted) {
  return {Code::corrupt,
          fmt::format("key {}: found {}, wanted {}", quoted(key), describe(value), wanted)};
}

/// value as int64 if it is in [min, max].
template <class Integer>
bool fits(Integer value, std::int64_t min, std::int64_t max) {
  return std::cmp_greater_equal(value, min) && std::cmp_less_equal(value, max);
}

template <class Integer>
Result<std::int64_t> ranged(std::string_view key, Integer value, std::int64_t min,
                            std::int64_t max) {
  if (fits(value, min, max)) return static_cast<std::int64_t>(value);
  return Error{Code::corrupt,
               fmt::format("key {}: {} is outside [{}, {}]", quoted(key), value, min, max)};
}

template <class Integer>
Result<std::vector<std::int64_t>> all_ranged(std::string_view key,
                                             const std::vector<Integer>& values, std::int64_t min,
                                             std::int64_t max) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!fits(values[i], min, max))
      return Error{Code::corrupt, fmt::format("key {}: element {} is {}, outside [{}, {}]",
                                              quoted(key), i, values[i], min, max)};
  return std::vector<std::int64_t>(values.begin(), values.end());
}

}  // namespace

std::string_view to_string(ValueType type) {
  constexpr std::string_view kNames[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                         "int32",  "float32", "bool",   "string", "array",
                                         "uint64", "int64",   "float64"};
  const auto number = static_cast<std::uint32_t>(type);
  return number < std::size(kNames) ? kNames[number] : "unknown";
}

std::size_t Value::array_size() const {
  return unsigned_array.size() + signed_array.size() + float_array.size() + double_array.size() +
         text_array.size() + nested.size();  // at most one is in use
}

std::int64_t TensorInfo::rows() const {
  std::int64_t product = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) product *= shape[i];
  return product;
}

const Value* File::find(std::string_view key) const {
  const auto at = std::lower_bound(
      key_order_.begin(), key_order_.end(), key,
      [&](std::uint32_t i, std::string_view wanted) { return metadata_[i].key < wanted; });
  if (at == key_order_.end() || metadata_[*at].key != key) return nullptr;
  return &metadata_[*at].value;
}

const TensorInfo* File::find_tensor(std::string_view name) const {
  const auto at = std::lower_bound(
      tensor_order_.begin(), tensor_order_.end(), name,
      [&](std::uint32_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  if (at == tensor_order_.end() || tensors_[*at].name != name) return nullptr;
  return &tensors_[*at];
}

Result<std::int64_t> File::get_int(std::string_view key, std::int64_t min, std::int64_t max) const {
  const Value* value = find(key);
  if (value == nullptr) return absent(key);
  if (is_unsigned(value->type)) return ranged(key, value->unsigned_value, min, max);
  if (is_signed(value->type)) return ranged(key, value->signed_value, min, max);
  return mismatch(key, *value, "an integer");
}

Result<double> File::get_real(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return absent(key);
  if (value->type != ValueType::f32 && value->type != ValueType::f64)
    return mismatch(key, *value, "float32 or float64");
  return value->real_value;
}

Result<bool> File::get_bool(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return absent(key);
  if (value->type != ValueType::boolean) return mismatch(key, *value, "bool");
  return value->unsigned_value != 0;
}

Result<std::string_view> File::get_string(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return absent(key);
  if (value->type != ValueType::string) return mismatch(key, *value, "string");
  return std::string_view(value->text);
}

Result<std::span<const std::string>> File::get_strings(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return absent(key);
  if (value->type != ValueType::array || value->element != ValueType::string)
    return mismatch(key, *value, "array of string");
  return std::span<const std::string>(value->text_array);
}

Result<std::span<const float>> File::get_floats(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return absent(key);
  if (value->type != ValueType::array || value->element != ValueType::f32)
    return mismatch(key, *value, "array of float32");
  return std::span<const float>(value->float_array);
}

Result<std::vector<std::int64_t>> File::get_ints(std::string_view key, std::int64_t min,
                                                 std::int64_t max) const {
  const Value* value = find(key);
  if (value == nullptr) return absent(key);
  if (value->type == ValueType::array && is_unsigned(value->element))
    return all_ranged(key, value->unsigned_array, min, max);
  if (value->type == ValueType::array && is_signed(value->element))
    return all_ranged(key, value->signed_array, min, max);
  return mismatch(key, *value, "array of integers");
}

Status File::read(const TensorInfo& tensor, std::uint64_t first_byte,
                  std::span<std::byte> out) const {
  if (!(ByteSize(first_byte) + ByteSize(out.size())).within(tensor.bytes))
    return Error{Code::out_of_range,
                 fmt::format("tensor {}: {} bytes at {} are outside its {} bytes",
                             quoted(tensor.name), out.size(), first_byte, tensor.bytes)};
  const ByteSize start = ByteSize(tensor.offset) + ByteSize(first_byte);
  if (source_ == nullptr || !start.ok())
    return Error{Code::out_of_range,
                 fmt::format("tensor {} is not of this file", quoted(tensor.name))};
  return source_->read(tensor.part, start.value(), out);
}

}  // namespace herd::gguf
