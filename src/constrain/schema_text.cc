#include "constrain/schema_text.h"

#include <fmt/format.h>

#include <cmath>

#include "constrain/scalars.h"

namespace herd::constrain {
namespace {

/// A token of a JSON pointer as the key it stands for.
std::string unescape(std::string_view token) {
  std::string key;
  for (std::size_t i = 0; i < token.size(); ++i) {
    const bool escape = token[i] == '~' && i + 1 < token.size();
    if (escape)
      key += token[++i] == '1' ? '/' : '~';
    else
      key += token[i];
  }
  return key;
}

const Json* child(const Json& at, const std::string& key) {
  if (at.is_object()) {
    const auto found = at.find(key);
    return found == at.end() ? nullptr : &*found;
  }
  if (!at.is_array() || key.empty() || key.size() > 6) return nullptr;
  if (key.find_first_not_of("0123456789") != std::string::npos) return nullptr;
  const std::size_t index = std::stoul(key);
  return index < at.size() ? &at[index] : nullptr;
}

}  // namespace

Result<Json> read_schema(std::string_view text) {
  if (text.size() > kMostSchemaBytes)
    return Error{Code::out_of_range,
                 fmt::format("json_schema: {} bytes, at most {}", text.size(), kMostSchemaBytes)};
  bool too_deep = false;
  const auto keep = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMostSchemaDepth;
    return !too_deep;
  };
  auto json = Json::parse(text, keep, false);
  if (too_deep)
    return Error{Code::out_of_range,
                 fmt::format("json_schema: nested more than {} deep", kMostSchemaDepth)};
  if (json.is_discarded()) return Error{Code::invalid_argument, "json_schema: not valid JSON"};
  return json;
}

const Json* resolve(const Json& root, std::string_view reference) {
  if (!reference.starts_with('#')) return nullptr;
  reference.remove_prefix(1);
  const Json* at = &root;
  while (!reference.empty() && at != nullptr) {
    if (reference[0] != '/') return nullptr;
    const std::size_t end = std::min(reference.find('/', 1), reference.size());
    at = child(*at, unescape(reference.substr(1, end - 1)));
    reference.remove_prefix(end);
  }
  return at;
}

std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 160;
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<std::uint8_t>(c);
    out += byte < 0x20 || byte >= 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
    if (out.size() > kLongest) return out + "...";
  }
  return out;
}

std::optional<std::int64_t> whole(const Json& number) {
  if (number.is_number_unsigned()) {
    if (number.get<std::uint64_t>() > std::uint64_t{kLargestWhole}) return {};
    return number.get<std::int64_t>();
  }
  if (number.is_number_integer()) {
    const auto value = number.get<std::int64_t>();
    if (value < -kLargestWhole) return {};
    return value;
  }
  if (!number.is_number_float()) return {};
  const auto value = number.get<double>();
  if (!(std::abs(value) <= 9e15) || value != std::floor(value)) return {};
  return static_cast<std::int64_t>(value);
}

bool has_type(const Json& value, std::string_view type) {
  if (type == "string") return value.is_string();
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return type == "integer" &&
         (value.is_number_integer() ||
          (value.is_number_float() && value.get<double>() == std::floor(value.get<double>())));
}

}  // namespace herd::constrain
