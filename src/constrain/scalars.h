// The parts of a schema that open nothing: numbers, and the insides of strings.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "constrain/builder.h"

namespace herd::constrain {

inline constexpr int kMostDigits = 18;  // before and after the point: exact as int64, no overflow
inline constexpr std::int64_t kLargestWhole = 999'999'999'999'999'999;

/// Which numbers. Bounds are whole numbers in [-kLargestWhole, kLargestWhole].
struct NumberRange {
  bool integer = false;
  std::optional<std::int64_t> low, high;
  bool low_open = false, high_open = false;  // the bound itself is left out
};

/// Every number of the range that is spelt with at most kMostDigits digits before and after the
/// point. With a bound: no exponent (else of at most two digits), and fewer digits after the point.
/// Adds nothing for an
/// empty range.
void add_number(Builder& b, StateId from, StateId to, const NumberRange& range);

/// The inside of a string from `start` to its closing ": any characters, valid UTF-8, valid escapes
/// and no lone surrogate; `min` to `max` characters.
void add_any_string(Builder& b, StateId start, std::uint32_t min, std::uint32_t max);

/// The same without escapes and without the strings `names`.
void add_other_string(Builder& b, StateId start, const std::vector<std::string>& names);

/// Just one of `texts`, spelt as JSON spells it with the fewest escapes.
void add_these_strings(Builder& b, StateId start, std::span<const std::string> texts);

}  // namespace herd::constrain
