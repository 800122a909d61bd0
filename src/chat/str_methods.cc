// The methods of str.
#include <algorithm>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/str_format.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

/// Parts of a text on their way to becoming strings.
class Pieces {
 public:
  explicit Pieces(Heap& heap) : heap_(heap) {}
  void add(std::string_view piece) {
    if (all.size() % 1024 == 0) heap_.room(all.size() * sizeof(Str));
    all.push_back(piece);
  }
  std::vector<std::string_view> all;

 private:
  Heap& heap_;
};
constexpr auto kNone = std::string_view::npos;

Value to_list(Interpreter& walk, const Value& self, const std::vector<std::string_view>& pieces,
              Flavor flavor = Flavor::list) {
  std::vector<Value> out;
  for (const std::string_view piece : pieces)
    out.push_back(walk.heap().string(std::string(piece), self));
  return walk.heap().list(std::move(out), flavor);
}

// ---- case and ends ----

template <std::string (*Map)(std::string_view)>
Value mapped(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("str method", arguments, {});
  walk.heap().work(16 * self.text().size());
  walk.heap().room(6 * self.text().size());
  return walk.heap().string(Map(self.text()), self);
}

template <Side side>
Value stripped(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("strip()", arguments, {""});
  const bool plain = !bound.has(0) || bound[0].is_none();
  if (!plain) walk.heap().work(self.text().size() * (1 + bound.text(0, "").size() / 16));
  const std::string_view out =
      plain ? strip(self.text(), side) : strip(self.text(), side, bound.text(0, ""));
  return walk.heap().string(std::string(out), self);
}

Value remove_prefix(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("removeprefix()", arguments, {""}, 1);
  std::string_view text = self.text();
  if (text.starts_with(bound.text(0, ""))) text.remove_prefix(bound[0].text().size());
  return walk.heap().string(std::string(text), self);
}
Value remove_suffix(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("removesuffix()", arguments, {""}, 1);
  std::string_view text = self.text();
  if (text.ends_with(bound.text(0, ""))) text.remove_suffix(bound[0].text().size());
  return walk.heap().string(std::string(text), self);
}

// ---- searching ----

/// self[start:end] of find(sub, start, end): where it begins in bytes and in code points.
struct Window {
  std::string_view text;
  std::size_t byte = 0;
  bool empty_range = false;  // start beyond the end: not even "" is found
};

Window window_of(const Value& self, const Bound& bound, std::size_t first) {
  const auto count = static_cast<Int>(self.str().points);
  const auto place = [&](std::size_t i, Int usual) {
    if (!bound.has(i) || bound[i].is_none()) return usual;
    const Int at = bound.integer(i, 0);
    return at < 0 ? std::max(at + count, Int{0}) : at;
  };
  const Int begin = place(first, 0), end = std::min(place(first + 1, count), count);
  if (begin > end) return {{}, 0, true};
  const std::string_view text = self.text();
  const bool plain = self.str().ascii();
  const auto offset = [&](Int point) {
    const auto at = static_cast<std::size_t>(point);
    return plain ? at : offset_of(text, at);
  };
  const std::size_t from = offset(begin), to = offset(end);
  return {text.substr(from, to - from), from, false};
}

/// The code point where `what` begins, or -1.
Int search(Interpreter& walk, const Value& self, const Arguments& arguments, bool last,
           std::string_view name) {
  const Bound bound(name, arguments, {"", "", ""}, 1);
  const std::string_view what = bound.text(0, "");
  const Window window = window_of(self, bound, 1);
  if (window.empty_range) return -1;
  walk.heap().work(window.text.size());
  if (last) walk.heap().step(window.text.size() / 4096 * what.size() / 16);
  const std::size_t at = last ? window.text.rfind(what) : find_text(window.text, what, 0);
  if (at == kNone) return -1;
  return static_cast<Int>(count_points(self.text().substr(0, window.byte + at)));
}

Value find(Interpreter& walk, const Value& self, const Arguments& arguments) {
  return Value(search(walk, self, arguments, false, "find()"));
}
Value rfind(Interpreter& walk, const Value& self, const Arguments& arguments) {
  return Value(search(walk, self, arguments, true, "rfind()"));
}
template <bool last>
Value index(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Int at = search(walk, self, arguments, last, "index()");
  if (at < 0) wrong("substring not found");
  return Value(at);
}

Value count(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("count()", arguments, {"", "", ""}, 1);
  const std::string_view what = bound.text(0, "");
  const Window window = window_of(self, bound, 1);
  if (window.empty_range) return Value(Int{0});
  walk.heap().work(window.text.size());
  if (what.empty()) return Value::integer(count_points(window.text) + 1);
  std::size_t found = 0;
  for (std::size_t at = find_text(window.text, what, 0); at != kNone; ++found)
    at = find_text(window.text, what, at + what.size());
  return Value::integer(found);
}

template <bool start>
Value affixed(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound(start ? "startswith()" : "endswith()", arguments, {"", "", ""}, 1);
  const Window window = window_of(self, bound, 1);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_str())
      wrong("{} first arg must be str or a tuple of str, not {}", start ? "startswith" : "endswith",
            type_name(affix));
    walk.heap().work(affix.text().size());
    return !window.empty_range &&
           (start ? window.text.starts_with(affix.text()) : window.text.ends_with(affix.text()));
  };
  const Value& affix = bound[0];
  if (affix.is_undefined()) fail_undefined(affix);
  if (!affix.is_sequence() || affix.list().flavor != Flavor::tuple) return Value(matches(affix));
  walk.heap().step(affix.list().items.size());
  return Value(std::any_of(affix.list().items.begin(), affix.list().items.end(), matches));
}

// ---- cutting and joining ----

void split_at(Pieces& out, std::string_view text, std::string_view separator, Int most) {
  std::size_t begin = 0;
  while (most-- != 0) {
    const std::size_t at = find_text(text, separator, begin);
    if (at == kNone) break;
    out.add(text.substr(begin, at - begin));
    begin = at + separator.size();
  }
  out.add(text.substr(begin));
}

void split_spaces(Pieces& out, std::string_view text, Int most) {
  text = strip(text, Side::left);
  while (!text.empty() && most-- != 0) {
    std::size_t end = 0, after = 0;
    while (end < text.size() && !is_space(next_point(text, after))) end = after;
    out.add(text.substr(0, end));
    text = strip(text.substr(end), Side::left);
  }
  if (!text.empty()) out.add(text);
}

void rsplit_at(Pieces& out, std::string_view text, std::string_view separator, Int most) {
  while (most-- != 0) {
    const std::size_t at = text.rfind(separator);
    if (at == kNone) break;
    out.add(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  out.add(text);
  std::reverse(out.all.begin(), out.all.end());
}

void rsplit_spaces(Pieces& out, std::string_view text, Int most) {
  text = strip(text, Side::right);
  while (!text.empty() && most-- != 0) {
    std::size_t begin = text.size();
    while (begin > 0) {
      std::size_t start = begin - 1;
      while (start > 0 && (text[start] & 0xC0) == 0x80) --start;
      std::size_t at = start;
      if (is_space(next_point(text, at))) break;
      begin = start;
    }
    out.add(text.substr(begin));
    text = strip(text.substr(0, begin), Side::right);
  }
  if (!text.empty()) out.add(text);
  std::reverse(out.all.begin(), out.all.end());
}

template <bool from_right>
Value split(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("split()", arguments, {"sep", "maxsplit"});
  const Int most = bound.integer(1, -1);
  const std::string_view text = self.text();
  walk.heap().work(text.size());
  walk.heap().step(text.size() / 256);
  Pieces out(walk.heap());
  const bool backwards = from_right && most >= 0;
  const std::string_view separator = bound.has(0) && !bound[0].is_none() ? bound.text(0, "") : " ";
  if (separator.empty()) wrong("empty separator");
  if (!bound.has(0) || bound[0].is_none()) {
    backwards ? rsplit_spaces(out, text, most) : split_spaces(out, text, most);
  } else if (backwards) {
    walk.heap().step(text.size() / 4096 * separator.size() / 16);
    rsplit_at(out, text, separator, most);
  } else {
    split_at(out, text, separator, most);
  }
  return to_list(walk, self, out.all);
}

Value split_into_lines(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("splitlines()", arguments, {"keepends"});
  walk.heap().step(self.text().size() / 256);
  walk.heap().room(most_lines(self.text()) * sizeof(Str));
  return to_list(walk, self, split_lines(self.text(), bound.flag(0, false)));
}

template <bool last>
Value partition(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("partition()", arguments, {""}, 1);
  const std::string_view text = self.text(), what = bound.text(0, "");
  if (what.empty()) wrong("empty separator");
  walk.heap().work(text.size());
  if (last) walk.heap().step(text.size() / 4096 * what.size() / 16);
  const std::size_t at = last ? text.rfind(what) : find_text(text, what, 0);
  if (at != kNone)
    return to_list(walk, self, {text.substr(0, at), what, text.substr(at + what.size())},
                   Flavor::tuple);
  return to_list(walk, self, {last ? "" : text, "", last ? text : ""}, Flavor::tuple);
}

Value join(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("join()", arguments, {""}, 1);
  Text out(walk.heap());
  bool first = true;
  for (const Value& item : iterate(walk.heap(), bound[0])) {
    if (!item.is_str()) wrong("join(): sequence item: expected str, {} found", type_name(item));
    if (!std::exchange(first, false)) out.add(self.text());
    out.add(item.text());
  }
  return walk.heap().string(out.take(), self);
}

Value replace(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("replace()", arguments, {"", "", "count"}, 2);
  return walk.heap().string(replace_text(walk.heap(), self.text(), bound.text(0, ""),
                                         bound.text(1, ""), bound.integer(2, -1)),
                            self);
}

// ---- padding ----

template <int where>
Value padded(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("padding method", arguments, {"", ""}, 1);
  const Int width = bound.integer(0, 0);
  const std::string_view fill = bound.text(1, " ");
  if (count_points(fill) != 1) wrong("the fill character must be exactly one character long");
  const auto size = static_cast<Int>(self.str().points);
  if (width <= size) return self;
  const auto missing = static_cast<std::size_t>(std::min(width - size, Int{1} << 40));
  // str.center puts the odd one to the left where the width is odd.
  const std::size_t before = where < 0 ? 0
                             : where > 0
                                 ? missing
                                 : missing / 2 + (missing & static_cast<std::size_t>(width) & 1);
  Text out(walk.heap());
  out.repeat(fill, before);
  out.add(self.text());
  out.repeat(fill, missing - before);
  return walk.heap().string(out.take(), self);
}

Value zero_filled(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("zfill()", arguments, {""}, 1);
  const Int missing = bound.integer(0, 0) - static_cast<Int>(self.str().points);
  if (missing <= 0) return self;
  std::string_view text = self.text();
  Text out(walk.heap());
  if (text.starts_with('-') || text.starts_with('+')) {
    out.add(text[0]);
    text.remove_prefix(1);
  }
  out.repeat("0", static_cast<std::size_t>(std::min(missing, Int{1} << 40)));
  out.add(text);
  return walk.heap().string(out.take(), self);
}

Value expand_tabs(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("expandtabs()", arguments, {"tabsize"});
  const auto size = static_cast<std::size_t>(std::clamp(bound.integer(0, 8), Int{0}, Int{4096}));
  Text out(walk.heap());
  walk.heap().room(self.str().points * sizeof(Str));
  std::size_t column = 0;
  for (const std::string_view point : split_points(self.text())) {
    if (point == "\t") {
      const std::size_t spaces = size == 0 ? 0 : size - column % size;
      out.repeat(" ", spaces);
      column += spaces;
    } else {
      out.add(point);
      column = point == "\n" || point == "\r" ? 0 : column + 1;
    }
  }
  return walk.heap().string(out.take(), self);
}

// ---- questions ----

template <bool (*Is)(char32_t)>
Value every(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("str method", arguments, {});
  walk.heap().work(8 * self.text().size());
  const std::string_view text = self.text();
  for (std::size_t at = 0; at < text.size();)
    if (!Is(next_point(text, at))) return Value(false);
  return Value(!text.empty());
}
bool is_alnum(char32_t c) {
  return is_alpha(c) || is_numeric(c) || is_digit(c);
}

Value all_ascii(Interpreter&, const Value& self, const Arguments&) {
  return Value(self.str().ascii());
}
Value all_printable(Interpreter& walk, const Value& self, const Arguments& arguments) {
  return self.text().empty() ? Value(true) : every<is_printable>(walk, self, arguments);
}
Value is_identifier(Interpreter&, const Value& self, const Arguments&) {
  const std::u32string points = to_points(self.text());
  bool good = !points.empty() && (points[0] == '_' || is_alpha(points[0]));
  for (const char32_t c : points) good = good && (c == '_' || is_alpha(c) || is_decimal(c));
  return Value(good);
}
Value is_lower_text(Interpreter&, const Value& self, const Arguments&) {
  return Value(all_lower(self.text()));
}
Value is_upper_text(Interpreter&, const Value& self, const Arguments&) {
  return Value(all_upper(self.text()));
}
Value is_title_text(Interpreter&, const Value& self, const Arguments&) {
  bool cased = false, inside = false;
  const std::string_view text = self.text();
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_point(text, at);
    const bool high = is_upper(c) || is_title(c), low = is_lower(c);
    if ((high && inside) || (low && !inside)) return Value(false);
    inside = high || low;
    cased = cased || inside;
  }
  return Value(cased);
}

Value format(Interpreter& walk, const Value& self, const Arguments& arguments) {
  return walk.heap().string(format_text(walk, self.text(), arguments), self);
}
Value format_map(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("format_map()", arguments, {""}, 1);
  if (!bound[0].is_dict()) wrong("format_map() needs a dict");
  Arguments named;
  for (const auto& [key, value] : bound[0].dict().entries)
    if (key.is_str()) named.named.emplace_back(key.text(), value);
  return format(walk, self, named);
}

struct Method {
  std::string_view name;
  Value (*body)(Interpreter&, const Value&, const Arguments&);
};
constexpr Method kMethods[] = {
    {"capitalize", mapped<capitalize>},
    {"casefold", mapped<casefold>},
    {"center", padded<0>},
    {"count", count},
    {"endswith", affixed<false>},
    {"expandtabs", expand_tabs},
    {"find", find},
    {"format", format},
    {"format_map", format_map},
    {"index", index<false>},
    {"isalnum", every<is_alnum>},
    {"isalpha", every<is_alpha>},
    {"isascii", all_ascii},
    {"isdecimal", every<is_decimal>},
    {"isdigit", every<is_digit>},
    {"isidentifier", is_identifier},
    {"islower", is_lower_text},
    {"isnumeric", every<is_numeric>},
    {"isprintable", all_printable},
    {"isspace", every<is_space>},
    {"istitle", is_title_text},
    {"isupper", is_upper_text},
    {"join", join},
    {"ljust", padded<-1>},
    {"lower", mapped<lower>},
    {"lstrip", stripped<Side::left>},
    {"partition", partition<false>},
    {"removeprefix", remove_prefix},
    {"removesuffix", remove_suffix},
    {"replace", replace},
    {"rfind", rfind},
    {"rindex", index<true>},
    {"rjust", padded<1>},
    {"rpartition", partition<true>},
    {"rsplit", split<true>},
    {"rstrip", stripped<Side::right>},
    {"split", split<false>},
    {"splitlines", split_into_lines},
    {"startswith", affixed<true>},
    {"strip", stripped<Side::both>},
    {"swapcase", mapped<swapcase>},
    {"title", mapped<title>},
    {"upper", mapped<upper>},
    {"zfill", zero_filled},
};

const Method* find_method(std::string_view name) {
  const auto* found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                   [name](const Method& m) { return m.name == name; });
  return found == std::end(kMethods) ? nullptr : found;
}

}  // namespace

bool is_str_method(std::string_view name) {
  return find_method(name) != nullptr;
}

Value call_str_method(Interpreter& walk, const Value& self, std::string_view name,
                      const Arguments& arguments) {
  return find_method(name)->body(walk, self, arguments);
}

std::string replace_text(Heap& heap, std::string_view text, std::string_view from,
                         std::string_view to, Int most) {
  heap.work(text.size());
  Text out(heap);
  std::size_t begin = 0;
  if (from.empty()) {
    heap.room(text.size() * sizeof(Str));
    for (const std::string_view point : split_points(text)) {
      if (most-- == 0) break;
      out.add(to);
      out.add(point);
      begin += point.size();
    }
    out.add(text.substr(begin));
    if (most > 0 || (most < 0 && begin == text.size())) out.add(to);
    return out.take();
  }
  while (most-- != 0) {
    const std::size_t at = find_text(text, from, begin);
    if (at == kNone) break;
    out.add(text.substr(begin, at - begin));
    out.add(to);
    begin = at + from.size();
  }
  out.add(text.substr(begin));
  return out.take();
}

}  // namespace herd::chat
