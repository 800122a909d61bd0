// Strings by code point, as Python's str methods see them. Every text here is valid UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace herd::chat {

bool valid_utf8(std::string_view text);
std::size_t count_points(std::string_view text);
/// Byte offset of code point `point`; text.size() at or past the end.
std::size_t offset_of(std::string_view text, std::size_t point);
/// Code points, one string each.
std::vector<std::string_view> split_points(std::string_view text);
std::u32string to_points(std::string_view text);
std::string from_points(std::u32string_view points);
/// The next code point; moves `at` behind it. REQUIRES: at < text.size().
char32_t next_point(std::string_view text, std::size_t& at);

bool is_space(char32_t c);      // str.isspace, and what strip() takes
bool is_line_end(char32_t c);   // where splitlines cuts; \r\n is one
bool is_printable(char32_t c);  // str.isprintable
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);  // first upper (title case), rest lower
std::string title(std::string_view text);       // str.title: words are runs of letters
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);
bool all_lower(std::string_view text);  // str.islower: some cased letter, none of the other case
bool all_upper(std::string_view text);

enum class Side { left, right, both };
/// Without white space, or without the code points in `chars`, at the ends.
std::string_view strip(std::string_view text, Side side);
std::string_view strip(std::string_view text, Side side, std::string_view chars);

/// Lines without (or with) their ends, as str.splitlines.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

/// At least as many as split_lines gives.
std::size_t most_lines(std::string_view text);

/// As std::string_view::find, in time linear in both whatever they hold.
std::size_t find_text(std::string_view text, std::string_view what, std::size_t from);

/// & < > ' " as HTML entities.
std::string escape_html(std::string_view text);

}  // namespace herd::chat
