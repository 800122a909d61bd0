// Random weights made directly as GGUF blocks: fast enough for files of many gigabytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/types.h"

namespace herd {

/// Fills `out` with blocks of `type` whose values have mean 0 and about the standard deviation
/// `deviation`; codes are uniform. A function of the arguments only.
/// REQUIRES: out holds whole blocks; 0 < deviation <= 1.
void random_blocks(quant::Type type, double deviation, std::uint64_t seed,
                   std::span<std::byte> out);

}  // namespace herd
