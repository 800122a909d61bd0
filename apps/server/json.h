// JSON from clients and to them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace server {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

/// What `text` holds; discarded if it is no JSON or nests deeper than `depth`.
Json parse_json(std::string_view text, int depth);

/// On one line, valid UTF-8: other bytes become U+FFFD.
std::string dump(const OrderedJson& json);

/// `text` for an error message: one line, no control characters, cut where it is long.
std::string shown(std::string_view text);

}  // namespace server
