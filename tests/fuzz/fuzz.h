// What the targets share. A broken promise traps, so that the fuzzer keeps the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "herd/status.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace herd::fuzz {

inline void check(bool promise) {
  if (!promise) __builtin_trap();
}

/// Every error says something, on one line.
inline void check(const Error& error) {
  check(!error.message.empty() && error.message.find('\n') == std::string::npos);
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace herd::fuzz
