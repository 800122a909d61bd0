// Metadata values as text: short for people, whole for machines.
#pragma once

#include <cstddef>
#include <string>

#include "gguf/gguf.h"

namespace herd::gguf {

/// `value` on one line: scalars as they are, strings in quotes with unprintable bytes escaped and
/// long ones cut, arrays as "[a, b, ... 49150 more]" with at most `max_items` elements shown.
std::string summarize(const Value& value, std::size_t max_items);

/// `value` whole, as JSON: numbers, true and false, strings, arrays. Bytes that are not UTF-8
/// become U+FFFD; numbers JSON does not have (NaN, infinities) become null.
std::string to_json(const Value& value);

}  // namespace herd::gguf
