// JSON from outside and to outside, and foreign text for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace cli {

/// Valid UTF-8 for JSON: other bytes become U+FFFD.
std::string dump(const nlohmann::ordered_json& json);

/// What `text` holds; discarded if it is no JSON, or nests deeper than 64: values are copied, shown
/// and freed one call per level.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text);

/// `text` for people: control characters escaped, so that it is one line and no terminal obeys it.
std::string printable(std::string_view text);
/// The same for error messages, cut where it is long.
std::string shown(std::string_view text);

/// A JSON integer that may be a token id (the vocabulary decides).
bool is_token_id(const nlohmann::json& json);

}  // namespace cli
