// Filters that make text.
#include <algorithm>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/str_format.h"
#include "chat/text.h"

namespace herd::chat {

Value soft_str(Interpreter& walk, const Value& value) {
  return value.is_str() ? value : walk.heap().string(walk.str(value));
}

namespace {

using Args = const Arguments&;

template <std::string (*Map)(std::string_view)>
Value mapped(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("filter", arguments, {});
  const Value text = soft_str(walk, input);
  walk.heap().work(16 * text.text().size());
  walk.heap().room(6 * text.text().size());
  return walk.heap().string(Map(text.text()), text);
}

/// Jinja's title: what follows white space, - ( { [ or < begins a word.
std::string title_words(std::string_view text) {
  std::string out;
  bool start = true;
  std::size_t begin = 0;
  const auto flush = [&](std::size_t end) {
    if (!start) out += lower(text.substr(begin, end - begin));
    begin = end;
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    const char32_t c = next_point(text, at);
    const bool divider =
        is_space(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) !=
                                        std::string_view::npos);
    if (divider) {
      flush(here);
      out += text.substr(here, at - here);
      start = true;
      begin = at;
    } else if (start) {
      out += upper(text.substr(here, at - here));
      start = false;
      begin = at;
    }
  }
  flush(text.size());
  return out;
}

Value escape(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("escape", arguments, {});
  if (input.is_str() && input.str().markup) return input;
  const Value text = soft_str(walk, input);
  walk.heap().work(6 * text.text().size());
  walk.heap().room(6 * text.text().size());
  return walk.heap().string(escape_html(text.text()), true);
}
Value force_escape(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("forceescape", arguments, {});
  const std::string text = walk.str(input);
  walk.heap().work(6 * text.size());
  walk.heap().room(6 * text.size());
  return walk.heap().string(escape_html(text), true);
}
Value safe(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("safe", arguments, {});
  return walk.heap().string(walk.str(input), true);
}
Value string(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("string", arguments, {});
  return soft_str(walk, input);
}

Value trim(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("trim", arguments, {"chars"});
  Arguments chars;
  if (bound.has(0)) chars.positional.push_back(bound[0]);
  return call_str_method(walk, soft_str(walk, input), "strip", chars);
}

Value replace(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  const Int most = bound.has(2) && !bound[2].is_none() ? bound.integer(2, -1) : Int{-1};
  return walk.heap().string(
      replace_text(walk.heap(), walk.str(input), walk.str(bound[0]), walk.str(bound[1]), most));
}

Value indent(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("indent", arguments, {"width", "first", "blank"});
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_str()) wrong("filter 'indent' needs a str, not {}", type_name(input));
  Text indention(walk.heap());
  if (bound.has(0) && bound[0].is_str())
    indention.add(bound[0].text());
  else
    indention.repeat(
        " ", static_cast<std::size_t>(std::clamp(bound.integer(0, 4), Int{0}, Int{1} << 40)));
  const std::string text = input.str().text + "\n";  // so that there is a line at all
  walk.heap().room(most_lines(text) * sizeof(Str));
  const auto lines = split_lines(text, false);
  walk.heap().step(lines.size() / 8);
  const bool blank = bound.flag(2, false);
  Text out(walk.heap());
  if (bound.flag(1, false)) out.add(indention.view());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.add('\n');
    if (i > 0 && (blank || !lines[i].empty())) out.add(indention.view());
    out.add(lines[i]);
  }
  return walk.heap().string(out.take(), input);
}

Value truncate(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const std::string_view end = bound.text(2, "...");
  const Int limit = bound.integer(0, 255), tail = static_cast<Int>(count_points(end));
  const Int leeway = bound.has(3) && !bound[3].is_none() ? bound.integer(3, 5) : Int{5};
  if (limit < tail) wrong("truncate: expected length >= {}", show_int(tail));
  if (leeway < 0) wrong("truncate: expected leeway >= 0");
  if (static_cast<Int>(length(input)) <= limit + leeway) return input;
  if (!input.is_str()) wrong("filter 'truncate' needs a str, not {}", type_name(input));
  const std::size_t cut = offset_of(input.text(), static_cast<std::size_t>(limit - tail));
  std::string_view kept = input.text().substr(0, cut);
  if (!bound.flag(1, false)) kept = kept.substr(0, kept.rfind(' '));  // npos: all of it
  return walk.heap().string(std::string(kept) + std::string(end), input);
}

Value word_count(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("wordcount", arguments, {});
  const Value text = soft_str(walk, input);
  walk.heap().work(16 * text.text().size());
  std::size_t words = 0;
  bool inside = false;
  for (std::size_t at = 0; at < text.text().size();) {
    const char32_t c = next_point(text.text(), at);
    const bool word = c == '_' || is_alpha(c) || is_numeric(c) || is_digit(c);
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::integer(words);
}

Value center(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("center", arguments, {"width"});
  return call_str_method(walk, soft_str(walk, input), "center",
                         {{Value(bound.integer(0, 80))}, {}});
}

Value format(Interpreter& walk, const Value& input, Args arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty())
    wrong("filter 'format' takes positional or keyword arguments, not both");
  const Value text = soft_str(walk, input);
  Value values;
  if (arguments.named.empty()) {
    values = walk.heap().list(arguments.positional, Flavor::tuple);
  } else {
    Dict dict;
    for (const auto& [name, value] : arguments.named) dict.set(walk.heap().string(name), value);
    values = walk.heap().dict(std::move(dict));
  }
  return walk.heap().string(format_percent(walk.heap(), text.text(), values), text);
}

std::string percent_encode(std::string_view text, bool query) {
  std::string out;
  for (const char c : text) {
    const bool letter = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (letter || std::string_view("_.-~").find(c) != std::string_view::npos ||
        (c == '/' && !query))
      out += c;
    else if (c == ' ' && query)
      out += '+';
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Value url_encode(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("urlencode", arguments, {});
  if (!input.is_dict() && !input.is_sequence()) {
    const std::string text = walk.str(input);
    walk.heap().work(3 * text.size());
    return walk.heap().string(percent_encode(text, false));
  }
  Text out(walk.heap());
  const auto pairs =
      input.is_dict() ? dict_pairs(walk.heap(), input.dict()) : iterate(walk.heap(), input);
  for (const Value& pair : pairs) {
    const auto parts = iterate(walk.heap(), pair);
    if (parts.size() != 2) wrong("filter 'urlencode' needs pairs of key and value");
    if (out.size() > 0) out.add('&');
    out.add(percent_encode(walk.str(parts[0]), true));
    out.add('=');
    out.add(percent_encode(walk.str(parts[1]), true));
  }
  return walk.heap().string(out.take());
}

/// Hugging Face's tojson: json.dumps with its arguments, nothing escaped for HTML.
Value to_json_text(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = bound.flag(0, false);
  style.sort_keys = bound.flag(3, false);
  if (bound.has(1) && !bound[1].is_none()) {
    style.indented = true;
    style.item_separator = ",";
    if (bound[1].is_str())
      style.indent = bound[1].text();
    else
      style.indent.assign(
          static_cast<std::size_t>(std::clamp(bound.integer(1, 0), Int{0}, Int{1024})), ' ');
  }
  if (bound.has(2) && !bound[2].is_none()) {
    const auto parts = iterate(walk.heap(), bound[2]);
    if (parts.size() != 2 || !parts[0].is_str() || !parts[1].is_str())
      wrong("filter 'tojson': separators must be two strings");
    style.item_separator = parts[0].text();
    style.key_separator = parts[1].text();
  }
  return walk.heap().string(to_json(walk.heap(), input, style));
}

constexpr NamedFilter kFilters[] = {
    {"capitalize", mapped<capitalize>},
    {"center", center},
    {"e", escape},
    {"escape", escape},
    {"forceescape", force_escape},
    {"format", format},
    {"indent", indent},
    {"lower", mapped<lower>},
    {"replace", replace},
    {"safe", safe},
    {"string", string},
    {"title", mapped<title_words>},
    {"tojson", to_json_text},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", mapped<upper>},
    {"urlencode", url_encode},
    {"wordcount", word_count},
};

}  // namespace

std::span<const NamedFilter> text_filters() {
  return kFilters;
}

FilterBody find_filter(std::string_view name) {
  for (const auto table : {text_filters(), list_filters(), number_filters()})
    for (const NamedFilter& filter : table)
      if (filter.name == name) return filter.body;
  return nullptr;
}

}  // namespace herd::chat
