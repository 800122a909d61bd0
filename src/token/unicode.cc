#include "token/unicode.h"

#include <utf8proc.h>

#include <array>

#include "token/utf8.h"

namespace herd {
namespace {

bool is_white_space(char32_t c) {
  if (c >= 0x2000 && c <= 0x200A) return true;
  switch (c) {
    case 0x09:
    case 0x0A:
    case 0x0B:
    case 0x0C:
    case 0x0D:
    case 0x20:
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000: return true;
    default: return false;
  }
}

std::uint16_t category_kind(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT: return kUpper;
    case UTF8PROC_CATEGORY_LL: return kLower;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return kUncased;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return kMark;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return kNumber;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return kPunct;
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO: return kSymbol;
    default: return 0;
  }
}

std::uint16_t kinds_of(char32_t c) {
  if (!is_white_space(c)) return category_kind(c);
  return c == '\r' || c == '\n' ? kSpace | kNewline : kSpace;
}

const std::array<std::uint16_t, 128>& ascii_kinds() {
  static const auto table = [] {
    std::array<std::uint16_t, 128> kinds{};
    for (std::size_t c = 0; c < kinds.size(); ++c) kinds[c] = kinds_of(static_cast<char32_t>(c));
    return kinds;
  }();
  return table;
}

}  // namespace

Glyph look(std::string_view text, std::size_t pos) {
  if (pos >= text.size()) return {};
  const auto byte = static_cast<std::uint8_t>(text[pos]);
  if (byte < 0x80) return {.value = byte, .kinds = ascii_kinds()[byte], .bytes = 1};
  const utf8::CodePoint point = utf8::decode(text, pos);
  if (!point.valid) return {.value = point.value, .bytes = point.bytes};
  return {.value = point.value, .kinds = kinds_of(point.value), .bytes = point.bytes};
}

}  // namespace herd
