// The character classes that pre-tokenisers tell apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace herd {

/// Bits of Glyph::kinds. A character that has none (controls, unassigned, invalid bytes) is still
/// matched by the negated classes, such as [^\s\p{L}\p{N}].
enum Kind : std::uint16_t {
  kUpper = 1,    // Lu Lt
  kLower = 2,    // Ll
  kUncased = 4,  // Lm Lo
  kLetter = kUpper | kLower | kUncased,
  kMark = 8,       // M*
  kNumber = 16,    // N*
  kPunct = 32,     // P*
  kSymbol = 64,    // S*
  kSpace = 128,    // White_Space
  kNewline = 256,  // \r \n, which are kSpace too
};

struct Glyph {
  char32_t value = 0;
  std::uint16_t kinds = 0;
  std::uint8_t bytes = 0;

  bool is(int mask) const { return (kinds & mask) != 0; }
};

/// The character at `pos`; past the end: no bytes, no kinds. Invalid UTF-8 is one kindless glyph.
Glyph look(std::string_view text, std::size_t pos);

}  // namespace herd
