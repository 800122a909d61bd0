// A schema as a document: reading it, finding $refs, and naming places in it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "herd/status.h"

namespace herd::constrain {

using Json = nlohmann::ordered_json;

inline constexpr std::size_t kMostSchemaBytes = 256u << 10;
inline constexpr int kMostSchemaDepth = 64;

/// Errors: out_of_range (bytes, depth), invalid_argument (no JSON).
Result<Json> read_schema(std::string_view text);

/// What "#/..." names in `root`, or null.
const Json* resolve(const Json& root, std::string_view reference);

/// Foreign text on one line, cut where it is long.
std::string shown(std::string_view text);

/// The number as a whole one of at most 18 digits; nothing if it is none.
std::optional<std::int64_t> whole(const Json& number);

/// Whether a value is of one of JSON Schema's types, by name.
bool has_type(const Json& value, std::string_view type);

}  // namespace herd::constrain
