#include "chat/show.h"

#include <charconv>
#include <cmath>

#include "chat/failure.h"
#include "chat/objects.h"
#include "chat/text.h"
#include "token/utf8.h"

namespace herd::chat {
namespace {

/// "1.5e-07" digits and exponent, put as Python's repr does.
std::string place_digits(std::string_view scientific) {
  const std::size_t e = scientific.find('e');
  std::string digits(scientific.substr(0, e));
  int exponent = 0;
  const char* begin = scientific.data() + e + 1;
  if (*begin == '+') ++begin;
  std::from_chars(begin, scientific.data() + scientific.size(), exponent);
  std::string sign;
  if (digits[0] == '-') {
    sign = "-";
    digits.erase(0, 1);
  }
  if (digits.size() > 1) digits.erase(1, 1);  // the point
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    if (count > 1) digits.insert(1, ".");
    return fmt::format("{}{}e{}{:02}", sign, digits, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return sign + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  return sign + digits.insert(static_cast<std::size_t>(exponent + 1), ".");
}

void add_escaped(Text& out, std::string_view text, char quote) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next_point(text, at);
    const auto value = static_cast<unsigned>(c);
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      out.add('\\');
      out.add(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.add(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if (is_printable(c)) {
      out.add(text.substr(begin, at - begin));
    } else {
      out.add(c < 0x100     ? fmt::format("\\x{:02x}", value)
              : c < 0x10000 ? fmt::format("\\u{:04x}", value)
                            : fmt::format("\\U{:08x}", value));
    }
  }
}

void add_quoted(Text& out, const Str& str) {
  const bool single = str.text.find('\'') != str.text.npos;
  const char quote = single && str.text.find('"') == str.text.npos ? '"' : '\'';
  if (str.markup) out.add("Markup(");
  out.add(quote);
  add_escaped(out, str.text, quote);
  out.add(quote);
  if (str.markup) out.add(')');
}

void add_items(Text& out, const std::vector<Value>& items, std::string_view open,
               std::string_view close) {
  out.add(open);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.add(", ");
    add_repr(out, items[i]);
  }
  out.add(close);
}

void add_list(Text& out, const List& list) {
  switch (list.flavor) {
    case Flavor::list: return add_items(out, list.items, "[", "]");
    case Flavor::tuple: return add_items(out, list.items, "(", list.items.size() == 1 ? ",)" : ")");
    case Flavor::keys: return add_items(out, list.items, "dict_keys([", "])");
    case Flavor::values: return add_items(out, list.items, "dict_values([", "])");
    case Flavor::items: return add_items(out, list.items, "dict_items([", "])");
    case Flavor::generator: return out.add("<generator object>");
    case Flavor::range: break;
  }
  const auto* range = static_cast<const Range*>(&list);
  out.add(fmt::format("range({}, {}", show_int(range->start), show_int(range->stop)));
  if (range->stride != 1) out.add(", " + show_int(range->stride));
  out.add(')');
}

void add_dict(Text& out, const Dict& dict) {
  out.add('{');
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) out.add(", ");
    first = false;
    add_repr(out, key);
    out.add(": ");
    add_repr(out, value);
  }
  out.add('}');
}

void add_object(Text& out, const Value& value) {
  if (const auto* space = value.as<Namespace>(); space != nullptr) {
    if (space->showing) fail(Code::resource_exhausted, "a namespace that holds itself has no text");
    space->showing = true;
    out.add("<Namespace ");
    add_dict(out, space->attributes);
    out.add('>');
    space->showing = false;
    return;
  }
  if (const auto* macro = value.as<Macro>(); macro != nullptr)
    return out.add(macro->name().empty() ? "<Macro anonymous>"
                                         : fmt::format("<Macro '{}'>", macro->name()));
  if (const auto* loop = value.as<Loop>(); loop != nullptr)
    return out.add(fmt::format("<LoopContext {}/{}>", loop->index + 1, loop->items.size()));
  out.add(fmt::format("<{}>", value.object()->type_name()));
}

}  // namespace

std::string show_int(Int value) {
  return fmt::format("{}", value);
}

std::string show_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char digits[64];
  const auto end =
      std::to_chars(std::begin(digits), std::end(digits), value, std::chars_format::scientific);
  return place_digits(std::string_view(digits, static_cast<std::size_t>(end.ptr - digits)));
}

void add_str(Text& out, const Value& value) {
  if (value.is_str()) return out.add(value.text());
  if (!value.is_undefined()) add_repr(out, value);
}

void add_repr(Text& out, const Value& value) {
  out.heap().step();
  if (value.is_undefined()) return out.add("Undefined");
  if (value.is_none()) return out.add("None");
  if (value.is_bool()) return out.add(value.boolean() ? "True" : "False");
  if (value.is_int()) return out.add(show_int(value.integer()));
  if (value.is_real()) return out.add(show_real(value.real()));
  if (value.is_str()) return add_quoted(out, value.str());
  if (value.is_dict()) return add_dict(out, value.dict());
  if (value.is_sequence()) return add_list(out, value.list());
  add_object(out, value);
}

std::string to_str(Heap& heap, const Value& value) {
  if (value.is_str()) return value.str().text;
  Text out(heap);
  add_str(out, value);
  return out.take();
}
std::string to_repr(Heap& heap, const Value& value) {
  Text out(heap);
  add_repr(out, value);
  return out.take();
}

}  // namespace herd::chat
