#include "chat/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

#include "token/utf8.h"

namespace herd::chat {
namespace {

/// Full case mappings that are more than one character (Unicode SpecialCasing, unconditional).
struct Special {
  char32_t from;
  const char* upper;
  const char* title;
};
constexpr Special kSpecial[] = {
    {0xDF, "SS", "Ss"},
    {0x149, "\u02BCN", "\u02BCN"},
    {0x1F0, "J\u030C", "J\u030C"},
    {0x390, "\u0399\u0308\u0301", "\u0399\u0308\u0301"},
    {0x3B0, "\u03A5\u0308\u0301", "\u03A5\u0308\u0301"},
    {0x587, "\u0535\u0552", "\u0535\u0582"},
    {0x1E96, "H\u0331", "H\u0331"},
    {0x1E97, "T\u0308", "T\u0308"},
    {0x1E98, "W\u030A", "W\u030A"},
    {0x1E99, "Y\u030A", "Y\u030A"},
    {0x1E9A, "A\u02BE", "A\u02BE"},
    {0xFB00, "FF", "Ff"},
    {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"},
    {0xFB03, "FFI", "Ffi"},
    {0xFB04, "FFL", "Ffl"},
    {0xFB05, "ST", "St"},
    {0xFB06, "ST", "St"},
};

const Special* special(char32_t c) {
  const auto* found = std::find_if(std::begin(kSpecial), std::end(kSpecial),
                                   [c](const Special& s) { return s.from == c; });
  return found == std::end(kSpecial) ? nullptr : found;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}
bool any_of(char32_t c, std::initializer_list<utf8proc_category_t> wanted) {
  return std::find(wanted.begin(), wanted.end(), category(c)) != wanted.end();
}

void add_upper(std::string& out, char32_t c) {
  if (const Special* s = special(c); s != nullptr)
    out += s->upper;
  else
    utf8::append(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}
void add_title(std::string& out, char32_t c) {
  if (const Special* s = special(c); s != nullptr)
    out += s->title;
  else
    utf8::append(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

bool is_cased(char32_t c) {
  return is_upper(c) || is_lower(c) || is_title(c);
}
/// Marks, modifiers and a few signs, which a final sigma looks through.
bool is_case_ignorable(char32_t c) {
  constexpr std::u32string_view kSigns = U"'.:^`\u00A8\u00AD\u00AF\u00B4\u00B7\u00B8\u2018\u2019";
  return kSigns.find(c) != kSigns.npos ||
         any_of(c, {UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME, UTF8PROC_CATEGORY_CF,
                    UTF8PROC_CATEGORY_LM, UTF8PROC_CATEGORY_SK});
}
bool is_final_sigma(std::u32string_view points, std::size_t at) {
  std::size_t before = at;
  while (before > 0 && is_case_ignorable(points[before - 1])) --before;
  if (before == 0 || !is_cased(points[before - 1])) return false;
  std::size_t after = at + 1;
  while (after < points.size() && is_case_ignorable(points[after])) ++after;
  return after == points.size() || !is_cased(points[after]);
}

void add_lower(std::string& out, std::u32string_view points, std::size_t at) {
  const char32_t c = points[at];
  if (c == 0x130)
    out += "i\u0307";
  else if (c == 0x3A3)
    utf8::append(out, is_final_sigma(points, at) ? 0x3C2 : 0x3C3);
  else
    utf8::append(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

template <class Inside>
std::string_view strip_if(std::string_view text, Side side, Inside inside) {
  std::size_t begin = 0, end = text.size();
  while (side != Side::right && begin < end) {
    std::size_t at = begin;
    if (!inside(next_point(text, at))) break;
    begin = at;
  }
  while (side != Side::left && begin < end) {
    std::size_t start = end - 1;
    while (start > begin && (text[start] & 0xC0) == 0x80) --start;
    std::size_t at = start;
    if (!inside(next_point(text, at))) break;
    end = start;
  }
  return text.substr(begin, end - begin);
}

}  // namespace

bool valid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto point = utf8::decode(text, at);
    if (!point.valid) return false;
    at += point.bytes;
  }
  return true;
}

std::size_t count_points(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::size_t offset_of(std::string_view text, std::size_t point) {
  std::size_t at = 0;
  for (; at < text.size(); ++at)
    if ((text[at] & 0xC0) != 0x80 && point-- == 0) return at;
  return at;
}

char32_t next_point(std::string_view text, std::size_t& at) {
  const auto point = utf8::decode(text, at);
  at += point.bytes;
  return point.value;
}

std::vector<std::string_view> split_points(std::string_view text) {
  std::vector<std::string_view> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    next_point(text, at);
    out.push_back(text.substr(begin, at - begin));
  }
  return out;
}

std::u32string to_points(std::string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size();) out += next_point(text, at);
  return out;
}
std::string from_points(std::u32string_view points) {
  std::string out;
  for (const char32_t c : points) utf8::append(out, c);
  return out;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || any_of(c, {UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZL, UTF8PROC_CATEGORY_ZP});
}
bool is_line_end(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}
bool is_printable(char32_t c) {
  if (c == ' ') return true;
  return !any_of(
      c, {UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CF, UTF8PROC_CATEGORY_CS, UTF8PROC_CATEGORY_CO,
          UTF8PROC_CATEGORY_CN, UTF8PROC_CATEGORY_ZL, UTF8PROC_CATEGORY_ZP, UTF8PROC_CATEGORY_ZS});
}
bool is_alpha(char32_t c) {
  return any_of(c, {UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LL, UTF8PROC_CATEGORY_LT,
                    UTF8PROC_CATEGORY_LM, UTF8PROC_CATEGORY_LO});
}
bool is_decimal(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}
bool is_digit(char32_t c) {
  constexpr std::u32string_view kSuper = U"\u00B2\u00B3\u00B9\u2070\u2074\u2075\u2076\u2077";
  return is_decimal(c) || kSuper.find(c) != kSuper.npos || (c >= 0x2078 && c <= 0x2079) ||
         (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468);
}
bool is_numeric(char32_t c) {
  constexpr std::u32string_view kHan = U"一二三四五六七八九十百千万億兆零〇";
  return kHan.find(c) != kHan.npos ||
         any_of(c, {UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NL, UTF8PROC_CATEGORY_NO});
}
bool is_upper(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU;
}
bool is_lower(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA;
}
bool is_title(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LT;
}

std::string upper(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) add_upper(out, next_point(text, at));
  return out;
}
std::string lower(std::string_view text) {
  const std::u32string points = to_points(text);
  std::string out;
  for (std::size_t i = 0; i < points.size(); ++i) add_lower(out, points, i);
  return out;
}
std::string capitalize(std::string_view text) {
  const std::u32string points = to_points(text);
  std::string out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (i == 0)
      add_title(out, points[i]);
    else
      add_lower(out, points, i);
  }
  return out;
}
std::string title(std::string_view text) {
  const std::u32string points = to_points(text);
  std::string out;
  bool inside = false;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (inside)
      add_lower(out, points, i);
    else
      add_title(out, points[i]);
    inside = is_cased(points[i]);
  }
  return out;
}
std::string swapcase(std::string_view text) {
  const std::u32string points = to_points(text);
  std::string out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (is_upper(points[i]))
      add_lower(out, points, i);
    else if (is_lower(points[i]))
      add_upper(out, points[i]);
    else
      utf8::append(out, points[i]);
  }
  return out;
}

std::string casefold(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t folded[8];
    int last = 0;
    const auto c = static_cast<utf8proc_int32_t>(next_point(text, at));
    const auto count = utf8proc_decompose_char(c, folded, 8, UTF8PROC_CASEFOLD, &last);
    for (utf8proc_ssize_t i = 0; i < std::min<utf8proc_ssize_t>(count, 8); ++i)
      utf8::append(out, static_cast<char32_t>(folded[i]));
  }
  return out;
}

namespace {

/// Some letter of the case `wanted`, none of the case `other` and none in title case.
bool all_of_case(std::string_view text, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
  bool some = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_point(text, at);
    if (other(c) || is_title(c)) return false;
    some = some || wanted(c);
  }
  return some;
}

}  // namespace

bool all_lower(std::string_view text) {
  return all_of_case(text, is_lower, is_upper);
}
bool all_upper(std::string_view text) {
  return all_of_case(text, is_upper, is_lower);
}

std::string_view strip(std::string_view text, Side side) {
  return strip_if(text, side, is_space);
}
std::string_view strip(std::string_view text, Side side, std::string_view chars) {
  const std::u32string set = to_points(chars);
  return strip_if(text, side, [&set](char32_t c) { return set.find(c) != set.npos; });
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = at;
    const char32_t c = next_point(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) out.push_back(text.substr(begin));
  return out;
}

std::size_t most_lines(std::string_view text) {
  const auto may_end = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0xC2 || byte == 0xE2;
  };
  return 1 + static_cast<std::size_t>(std::count_if(text.begin(), text.end(), may_end));
}

std::size_t find_text(std::string_view text, std::string_view what, std::size_t from) {
  if (from > text.size() || what.size() > text.size() - from) return std::string_view::npos;
  if (what.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, what.data(), what.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace herd::chat
