#include "backend/reference/rounded.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace herd::reference {
namespace {

constexpr int kBits = 20;             // |integer| <= 2^20
constexpr int kLeastExponent = -107;  // below, scales would not be normal numbers

}  // namespace

RoundedRow rounded_at(float* at, std::int64_t n) {
  auto* high = reinterpret_cast<std::int16_t*>(at);
  return {high, high + n, at + n};
}

void round_row(const float* x, std::int32_t n, const RoundedRow& to) {
  for (std::int32_t g = 0; g < n / kRoundGroup; ++g) {
    float largest = 0;
    bool finite = true;
    for (std::int32_t k = g * kRoundGroup; k < (g + 1) * kRoundGroup; ++k) {
      largest = std::max(largest, std::fabs(x[k]));
      finite = finite && std::isfinite(x[k]);
    }
    const int exponent =
        finite && largest > 0 ? std::max(kLeastExponent, std::ilogb(largest)) : kLeastExponent;
    const int shift = kBits - 1 - exponent;
    to.scales[g] = finite ? std::ldexp(1.0f, -shift) : std::numeric_limits<float>::quiet_NaN();
    for (std::int32_t k = g * kRoundGroup; k < (g + 1) * kRoundGroup; ++k) {
      // Scaling by a power of two is exact; the sum rounds to the nearest integer, ties to even.
      const double scaled = finite ? std::ldexp(static_cast<double>(x[k]), shift) : 0.0;
      const int integer = static_cast<int>(std::nearbyint(scaled));
      const int low = ((integer + 64) & 127) - 64;
      to.low[k] = static_cast<std::int16_t>(low);
      to.high[k] = static_cast<std::int16_t>((integer - low) / 128);
    }
  }
}

float multiply_codes(const CodedRow& w, const RoundedRow& x) {
  float y = 0;
  for (std::int32_t g = 0; g < w.n / w.group; ++g) {
    std::int32_t high = 0, low = 0, inputs = 0;
    for (std::int32_t k = g * w.group; k < (g + 1) * w.group; ++k) {
      const auto code = static_cast<std::int32_t>(w.codes[k]);
      high += code * x.high[k];
      low += code * x.low[k];
      inputs += 128 * x.high[k] + x.low[k];
    }
    const float scale = x.scales[g * w.group / kRoundGroup];
    const float sum = std::fma(static_cast<float>(high), 128.0f, static_cast<float>(low));
    y = std::fma(w.scales[g] * scale, sum, y);
    if (w.mins != nullptr) y = std::fma(w.mins[g], static_cast<float>(inputs) * scale, y);
  }
  return y;
}

}  // namespace herd::reference
