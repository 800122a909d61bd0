// The quantisers for blocks of 256 with two levels of scales; reached through quantize() only.
#pragma once

#include "quant/types.h"

namespace herd::quant {

/// REQUIRES: x has 256 values.
void quantize_block(const float* x, BlockQ4_K& block);
void quantize_block(const float* x, BlockQ5_K& block);
void quantize_block(const float* x, BlockQ6_K& block);

}  // namespace herd::quant
