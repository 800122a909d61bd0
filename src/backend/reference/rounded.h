// Products with weights of codes, as docs/numerics.md has them: inputs rounded to integers, exact
// sums of integers, one rounding a group.
#pragma once

#include <cstdint>

namespace herd::reference {

inline constexpr std::int32_t kRoundGroup = 32;

/// A row of inputs x[n] as scale * (128 * high + low).
struct RoundedRow {
  std::int16_t *high, *low;  // [n] -8256..8256, -64..63
  float* scales;             // [n / 32]; NaN where an input is not finite
};
/// What a row takes of float scratch.
constexpr std::int64_t rounded_floats(std::int64_t n) {
  return n + n / kRoundGroup;
}
/// The row in scratch at `at`.
RoundedRow rounded_at(float* at, std::int64_t n);
/// REQUIRES: n is a multiple of 32.
void round_row(const float* x, std::int32_t n, const RoundedRow& to);

/// A row of weights, scale * code + min.
struct CodedRow {
  const float* codes;   // [n] integers
  const float* scales;  // [n / group]
  const float* mins;    // the same, or null
  std::int32_t group;   // 16 or 32
  std::int32_t n;
};
float multiply_codes(const CodedRow& w, const RoundedRow& x);

}  // namespace herd::reference
