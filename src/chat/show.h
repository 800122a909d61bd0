// Values as text: Python's str() and repr(), JSON, printf and format specifications.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chat/heap.h"
#include "chat/value.h"

namespace herd::chat {

std::string show_int(Int value);
/// The shortest text that reads back as the same double, as Python writes it.
std::string show_real(double value);

void add_str(Text& out, const Value& value);
void add_repr(Text& out, const Value& value);
std::string to_str(Heap& heap, const Value& value);
std::string to_repr(Heap& heap, const Value& value);

/// json.dumps' options; separators as Python chooses them unless given.
struct JsonStyle {
  bool ascii = false, sort_keys = false, indented = false;
  std::string indent, item_separator = ", ", key_separator = ": ";
};
std::string to_json(Heap& heap, const Value& value, const JsonStyle& style);

/// A JSON object, its members in order. Errors: invalid_argument, resource_exhausted, out_of_range.
Value read_json(Heap& heap, std::string_view text);

/// format(value, spec): "[[fill]align][sign][#][0][width][,][.precision][type]".
std::string format_value(Heap& heap, const Value& value, std::string_view spec);
/// `form % values`; `values` is a tuple, a dict or one value.
std::string format_percent(Heap& heap, std::string_view form, const Value& values);

}  // namespace herd::chat
