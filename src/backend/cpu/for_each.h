// How small ops share their rows out between threads.
#pragma once

#include <algorithm>

#include "backend/cpu/cpu.h"

namespace herd::cpu {

/// Below this many elementary steps an op runs on the calling thread: waking the others costs more.
inline constexpr std::int64_t kWorthSharing = 16384;

template <class Body>
void CpuBackend::for_each(std::int64_t n, std::int64_t cost_each, Body&& body) {
  if (n <= 1 || pool_.threads() == 1 || n * cost_each < kWorthSharing) {
    for (std::int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  const std::int64_t pieces = std::min<std::int64_t>(n, std::int64_t{4} * pool_.threads());
  pool_.run(static_cast<int>(pieces), [&](int piece, int) {
    for (std::int64_t i = n * piece / pieces; i < n * (piece + 1) / pieces; ++i) body(i);
  });
}

}  // namespace herd::cpu
