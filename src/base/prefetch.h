// Asking for memory before it is read or written. Changes no result; a wrong address does no harm.
#pragma once

#include <cstddef>
#include <cstdint>

namespace herd {

enum class CacheLevel { first = 3, second = 2 };  // of a core's own
/// Asks for all lines of `bytes` from `from` on.
template <CacheLevel L>
void ask_for(const void* from, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64)
    __builtin_prefetch(static_cast<const std::byte*>(from) + at, 0, static_cast<int>(L));
}

/// Asks for all lines of `bytes` from `to` on to be written: other cores' copies of them go. Stores
/// wait for that one after the other, and behind another cache it takes as long as to fetch a line.
/// Always inlined, for kernels' files have instructions that other files must not get.
[[gnu::always_inline]] inline void ask_to_write(const void* to, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64) {
    const std::byte* line = static_cast<const std::byte*>(to) + at;
#if defined(__x86_64__)
    // __builtin_prefetch would ask to read. Processors without the instruction pass over it.
    asm volatile("prefetchw %0" : : "m"(*line));
#else
    __builtin_prefetch(line, 1);
#endif
  }
}

}  // namespace herd
