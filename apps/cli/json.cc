#include "json.h"

#include <fmt/format.h>

namespace cli {

std::string dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

template <class Json>
Json parse_json(std::string_view text) {
  constexpr int kDeepest = 64;
  bool too_deep = false;
  const auto keep = [&](int depth, typename Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kDeepest;
    return !too_deep;
  };
  auto json = Json::parse(text, keep, false);
  if (too_deep) json = Json(Json::value_t::discarded);
  return json;
}
template nlohmann::json parse_json(std::string_view text);
template nlohmann::ordered_json parse_json(std::string_view text);

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out;
}
std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  return printable(text.substr(0, kLongest)) + (text.size() > kLongest ? "..." : "");
}

bool is_token_id(const nlohmann::json& json) {
  return json.is_number_integer() && json >= 0 && json <= (1 << 30);
}

}  // namespace cli
