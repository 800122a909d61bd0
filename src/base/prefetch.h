// Asking for memory before it is read. Changes no result; a wrong address does no harm.
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

}  // namespace herd
