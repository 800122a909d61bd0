// Metadata values as short text, for people.
#pragma once

#include <cstddef>
#include <string>

#include "gguf/gguf.h"

namespace herd::gguf {

/// `value` on one line: scalars as they are, strings in quotes with unprintable bytes escaped and
/// long ones cut, arrays as "[a, b, ... 49150 more]" with at most `max_items` elements shown.
std::string summarize(const Value& value, std::size_t max_items);

}  // namespace herd::gguf
