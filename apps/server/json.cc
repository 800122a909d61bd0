#include "json.h"

#include <fmt/format.h>

namespace server {

Json parse_json(std::string_view text, int depth) {
  bool too_deep = false;
  const auto keep = [&](int level, Json::parse_event_t, Json&) {
    too_deep = too_deep || level > depth;
    return !too_deep;
  };
  Json json = Json::parse(text, keep, false);
  if (too_deep) json = Json(Json::value_t::discarded);
  return json;
}

std::string member_as_written(std::string_view text, const std::vector<std::string_view>& path) {
  // Ordered objects look their members up one by one, so only those on the way are kept.
  const auto on_the_way = [&](int level, OrderedJson::parse_event_t event, OrderedJson& key) {
    const auto depth = static_cast<std::size_t>(level);
    return event != OrderedJson::parse_event_t::key || depth > path.size() ||
           key == path[depth - 1];
  };
  OrderedJson json = OrderedJson::parse(text, on_the_way, false);
  for (const std::string_view name : path) json = OrderedJson(json[std::string(name)]);
  return dump(json);
}

std::string dump(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string out;
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out + (text.size() > kLongest ? "..." : "");
}

}  // namespace server
