// json.dumps, with the options chat templates give it.
#include <algorithm>
#include <cmath>

#include "chat/failure.h"
#include "chat/show.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

class Writer {
 public:
  Writer(Text& out, const JsonStyle& style) : out_(out), style_(style) {}
  void value(const Value& v);

 private:
  void string(std::string_view text);
  void real(double number);
  void key(const Value& key);
  void list(const List& list);
  void dict(const Dict& dict);
  void line();
  void next(bool& first);
  void close(char bracket);

  Text& out_;
  const JsonStyle& style_;
  std::size_t level_ = 0;
};

void Writer::line() {
  out_.add('\n');
  out_.repeat(style_.indent, level_);
}
void Writer::next(bool& first) {
  if (!first) out_.add(style_.item_separator);
  first = false;
  if (style_.indented) line();
}
void Writer::close(char bracket) {
  --level_;
  if (style_.indented) line();
  out_.add(bracket);
}

void Writer::string(std::string_view text) {
  out_.heap().work(text.size());
  out_.add('"');
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const auto c = static_cast<unsigned>(next_point(text, at));
    const auto short_form = std::string_view("\"\\\n\r\t\b\f").find(static_cast<char>(c));
    if (c < 0x80 && short_form != std::string_view::npos) {
      out_.add('\\');
      out_.add("\"\\nrtbf"[short_form]);
    } else if (c < 0x20 || (style_.ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
      out_.add(fmt::format("\\u{:04x}", c));
    } else if (style_.ascii && c >= 0x10000) {
      out_.add(fmt::format("\\u{:04x}\\u{:04x}", 0xD7C0 + (c >> 10), 0xDC00 + (c & 0x3FF)));
    } else {
      out_.add(text.substr(begin, at - begin));
    }
  }
  out_.add('"');
}

void Writer::real(double number) {
  if (std::isnan(number)) return out_.add("NaN");
  if (std::isinf(number)) return out_.add(number < 0 ? "-Infinity" : "Infinity");
  out_.add(show_real(number));
}

void Writer::key(const Value& key) {
  if (key.is_str()) return string(key.text());
  if (!key.is_number() && !key.is_none())
    wrong("keys must be str, int, float, bool or None, not {}", type_name(key));
  out_.add('"');
  value(key);
  out_.add('"');
}

void Writer::list(const List& list) {
  if (list.items.empty()) return out_.add("[]");
  out_.add('[');
  ++level_;
  bool first = true;
  for (const Value& item : list.items) {
    next(first);
    value(item);
  }
  close(']');
}

void Writer::dict(const Dict& dict) {
  if (dict.entries.empty()) return out_.add("{}");
  auto entries = dict.entries;
  if (style_.sort_keys)
    std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
      return compare(a.first, b.first, "<") < 0;
    });
  out_.add('{');
  ++level_;
  bool first = true;
  for (const auto& [name, member] : entries) {
    next(first);
    key(name);
    out_.add(style_.key_separator);
    value(member);
  }
  close('}');
}

void Writer::value(const Value& v) {
  out_.heap().step();
  if (v.is_none()) return out_.add("null");
  if (v.is_bool()) return out_.add(v.boolean() ? "true" : "false");
  if (v.is_int()) return out_.add(show_int(v.integer()));
  if (v.is_real()) return real(v.real());
  if (v.is_str()) return string(v.text());
  if (v.is_dict()) return dict(v.dict());
  if (v.is_sequence() && v.list().flavor <= Flavor::tuple) return list(v.list());
  wrong("Object of type {} is not JSON serializable", type_name(v));
}

}  // namespace

std::string to_json(Heap& heap, const Value& value, const JsonStyle& style) {
  Text out(heap);
  Writer(out, style).value(value);
  return out.take();
}

}  // namespace herd::chat
