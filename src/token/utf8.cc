#include "token/utf8.h"

namespace herd::utf8 {
namespace {

struct Lead {
  int bytes = 0;                         // of the whole character, 0: cannot start one
  std::uint8_t low = 0x80, high = 0xBF;  // allowed range of the second byte (Unicode table 3-7)
};

Lead classify(std::uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {.bytes = 2};
  if (byte == 0xE0) return {.bytes = 3, .low = 0xA0};
  if (byte == 0xED) return {.bytes = 3, .high = 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {.bytes = 3};
  if (byte == 0xF0) return {.bytes = 4, .low = 0x90};
  if (byte >= 0xF1 && byte <= 0xF3) return {.bytes = 4};
  if (byte == 0xF4) return {.bytes = 4, .high = 0x8F};
  return {};
}

}  // namespace

CodePoint decode(std::string_view text, std::size_t pos) {
  const auto first = static_cast<std::uint8_t>(text[pos]);
  if (first < 0x80) return {.value = first, .bytes = 1, .valid = true};
  const Lead lead = classify(first);
  if (lead.bytes == 0) return {};
  char32_t value = first & (0x7Fu >> lead.bytes);
  for (int i = 1; i < lead.bytes; ++i) {
    const auto seen = static_cast<std::uint8_t>(i);
    if (pos + seen >= text.size()) return {.bytes = seen, .truncated = true};
    const auto byte = static_cast<std::uint8_t>(text[pos + seen]);
    const bool fits = i == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
    if (!fits) return {.bytes = seen};
    value = (value << 6) | (byte & 0x3Fu);
  }
  return {.value = value, .bytes = static_cast<std::uint8_t>(lead.bytes), .valid = true};
}

void append(std::string& out, char32_t value) {
  auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (value < 0x80) return put(value);
  if (value < 0x800) {
    put(0xC0 | (value >> 6));
  } else if (value < 0x10000) {
    put(0xE0 | (value >> 12));
    put(0x80 | ((value >> 6) & 0x3F));
  } else {
    put(0xF0 | (value >> 18));
    put(0x80 | ((value >> 12) & 0x3F));
    put(0x80 | ((value >> 6) & 0x3F));
  }
  put(0x80 | (value & 0x3F));
}

}  // namespace herd::utf8
