// JSON from clients and to them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace server {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

/// What `text` holds; discarded if it is no JSON or nests deeper than `depth`.
Json parse_json(std::string_view text, int depth);

/// The member of an object at `path`, its own members in the order of the text, on one line.
/// REQUIRES: parse_json takes the text, the member is there.
std::string member_as_written(std::string_view text, const std::vector<std::string_view>& path);

/// On one line, valid UTF-8: other bytes become U+FFFD.
std::string dump(const OrderedJson& json);

/// `text` for an error message: one line, no control characters, cut where it is long.
std::string shown(std::string_view text);

}  // namespace server
