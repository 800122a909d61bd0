// UTF-8 one character at a time, strict: no overlong forms, surrogates or values above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace herd::utf8 {

inline constexpr char32_t kReplacement = 0xFFFD;

struct CodePoint {
  char32_t value = kReplacement;
  std::uint8_t bytes = 1;  // consumed; of an invalid sequence, its longest well-formed prefix
  bool valid = false;      // false: `value` is U+FFFD
  bool truncated = false;  // invalid only because the text ends here
};

/// The character at `pos`. REQUIRES: pos < text.size().
CodePoint decode(std::string_view text, std::size_t pos);

/// Appends `value`. REQUIRES: a Unicode scalar value.
void append(std::string& out, char32_t value);

}  // namespace herd::utf8
