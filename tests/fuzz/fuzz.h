// What the targets share. A broken promise traps, so that the fuzzer keeps the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "herd/status.h"
#include "token/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace herd::fuzz {

inline void check(bool promise) {
  if (!promise) __builtin_trap();
}

inline bool valid_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const utf8::CodePoint point = utf8::decode(text, at);
    if (!point.valid) return false;
    at += point.bytes;
  }
  return true;
}

/// Every error says something, on one line that a terminal can be shown.
inline void check(const Error& error) {
  check(!error.message.empty() && error.message.size() < 8192 && valid_utf8(error.message));
  for (const char c : error.message) check(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace herd::fuzz
