#include "gguf/inspect.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "gguf/reader.h"

namespace herd::gguf {
namespace {

template <class T, class Show>
std::string list(const std::vector<T>& items, std::size_t max_items, Show show) {
  std::string text = "[";
  const std::size_t shown = std::min(items.size(), max_items);
  for (std::size_t i = 0; i < shown; ++i) text += (i > 0 ? ", " : "") + show(items[i]);
  if (shown < items.size())
    text += fmt::format("{}... {} more", shown > 0 ? ", " : "", items.size() - shown);
  return text + "]";
}

std::string summarize_array(const Value& value, std::size_t max_items) {
  auto plain = [](const auto& item) { return fmt::format("{}", item); };
  if (value.element == ValueType::boolean)
    return list(value.unsigned_array, max_items,
                [](std::uint64_t v) { return fmt::format("{}", v != 0); });
  if (!value.unsigned_array.empty()) return list(value.unsigned_array, max_items, plain);
  if (!value.signed_array.empty()) return list(value.signed_array, max_items, plain);
  if (!value.float_array.empty()) return list(value.float_array, max_items, plain);
  if (!value.double_array.empty()) return list(value.double_array, max_items, plain);
  if (!value.text_array.empty()) return list(value.text_array, max_items, gguf::quoted);
  return list(value.nested, max_items, [&](const Value& v) { return summarize(v, max_items); });
}

nlohmann::json json_array(const Value& value) {
  auto out = nlohmann::json::array();
  for (const std::uint64_t v : value.unsigned_array) {
    if (value.element == ValueType::boolean)
      out.push_back(v != 0);
    else
      out.push_back(v);
  }
  for (const std::int64_t v : value.signed_array) out.push_back(v);
  for (const float v : value.float_array) out.push_back(v);
  for (const double v : value.double_array) out.push_back(v);
  for (const std::string& v : value.text_array) out.push_back(v);
  for (const Value& v : value.nested) out.push_back(json_array(v));
  return out;
}

nlohmann::json json_value(const Value& value) {
  switch (value.type) {
    case ValueType::string: return value.text;
    case ValueType::array: return json_array(value);
    case ValueType::boolean: return value.unsigned_value != 0;
    case ValueType::f32:
    case ValueType::f64: return value.real_value;
    case ValueType::i8:
    case ValueType::i16:
    case ValueType::i32:
    case ValueType::i64: return value.signed_value;
    default: return value.unsigned_value;
  }
}

}  // namespace

std::string to_json(const Value& value) {
  return json_value(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string summarize(const Value& value, std::size_t max_items) {
  switch (value.type) {
    case ValueType::string: return gguf::quoted(value.text);
    case ValueType::array: return summarize_array(value, max_items);
    case ValueType::boolean: return value.unsigned_value != 0 ? "true" : "false";
    case ValueType::f32: return fmt::format("{}", static_cast<float>(value.real_value));
    case ValueType::f64: return fmt::format("{}", value.real_value);
    case ValueType::i8:
    case ValueType::i16:
    case ValueType::i32:
    case ValueType::i64: return fmt::format("{}", value.signed_value);
    default: return fmt::format("{}", value.unsigned_value);
  }
}

}  // namespace herd::gguf
