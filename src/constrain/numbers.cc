// Numbers as automata over their digits.
#include <algorithm>
#include <cstdlib>

#include "constrain/scalars.h"

namespace herd::constrain {
namespace {

constexpr std::uint8_t kZero = '0', kOne = '1', kNine = '9';

/// One to `most` digits more, each followed by `end` without a byte.
void add_digits(Builder& b, StateId from, int most, StateId end) {
  for (int i = 0; i < most; ++i) {
    const StateId next = b.state();
    b.edge(from, kZero, kNine, next);
    b.silent(next, end);
    from = next;
  }
}

/// A whole number without sign.
void add_whole(Builder& b, StateId from, StateId end) {
  const StateId first = b.state();
  b.edge(from, kZero, kZero, end);
  b.edge(from, kOne, kNine, first);
  b.silent(first, end);
  add_digits(b, first, kMostDigits - 1, end);
}

void add_exponent(Builder& b, StateId from, StateId to) {
  const StateId mark = b.state(), sign = b.state();
  b.edge(from, 'e', mark);
  b.edge(from, 'E', mark);
  b.silent(mark, sign);
  b.edge(mark, '+', sign);
  b.edge(mark, '-', sign);
  add_digits(b, sign, 2, to);
}

enum class Fraction { any, zero, not_zero };

/// A fraction, or none where that is zero.
void add_fraction(Builder& b, StateId from, StateId to, Fraction which, int most) {
  if (which != Fraction::not_zero) b.silent(from, to);
  if (most < 1) return;
  StateId zeros = b.state(), others = b.state();
  b.edge(from, '.', zeros);
  for (int i = 0; i < most; ++i) {
    const StateId next_zeros = b.state(), next_others = b.state();
    b.edge(zeros, kZero, kZero, next_zeros);
    if (which != Fraction::zero) b.edge(zeros, kOne, kNine, next_others);
    if (i > 0) b.edge(others, kZero, kNine, next_others);
    if (which != Fraction::not_zero) b.silent(next_zeros, to);
    b.silent(next_others, to);
    zeros = next_zeros;
    others = next_others;
  }
}

/// The whole numbers low to high, spelt with equally many digits.
void add_same_length(Builder& b, StateId from, const std::string& low, const std::string& high,
                     StateId end) {
  // at[l][h]: where those stand that so far equal low (l) and high (h).
  std::optional<StateId> at[2][2];
  at[1][1] = from;
  for (std::size_t i = 0; i < low.size(); ++i) {
    std::optional<StateId> next[2][2];
    for (const bool l : {false, true})
      for (const bool h : {false, true}) {
        if (!at[l][h]) continue;
        const char first = l ? low[i] : '0', last = h ? high[i] : '9';
        for (char digit = first; digit <= last; ++digit) {
          std::optional<StateId>& target = next[l && digit == first][h && digit == last];
          if (!target) target = i + 1 == low.size() ? end : b.state();
          b.edge(*at[l][h], digit, *target);
        }
      }
    std::copy(&next[0][0], &next[0][0] + 4, &at[0][0]);
  }
}

void add_between(Builder& b, StateId from, std::int64_t low, std::int64_t high, StateId end) {
  std::int64_t first = 0, last = 9;  // of the numbers with as many digits
  for (int digits = 1; digits <= kMostDigits; ++digits) {
    if (digits > 1) first = last + 1, last = last * 10 + 9;
    const std::int64_t l = std::max(low, first), h = std::min(high, last);
    if (l <= h) add_same_length(b, from, std::to_string(l), std::to_string(h), end);
  }
}

struct Magnitudes {
  std::int64_t low, high;
  bool low_open, high_open;
  int fraction;  // most digits
};

/// The numbers from low to high, none of them below 0.
void add_magnitudes(Builder& b, StateId from, StateId to, bool integer, const Magnitudes& m) {
  if (integer)
    return add_between(b, from, m.low + (m.low_open ? 1 : 0), m.high - (m.high_open ? 1 : 0), to);
  const auto part = [&](std::int64_t low, std::int64_t high, Fraction fraction) {
    if (low > high) return;
    const StateId end = b.state();
    add_between(b, from, low, high, end);
    add_fraction(b, end, to, fraction, m.fraction);
  };
  if (m.low_open && m.low < m.high) part(m.low, m.low, Fraction::not_zero);
  part(m.low + (m.low_open ? 1 : 0), m.high - 1, Fraction::any);
  if (!m.high_open && (m.low < m.high || !m.low_open)) part(m.high, m.high, Fraction::zero);
}

/// Decimals of 15 digits keep their order as doubles: what is above a bound stays so when it is
/// read.
int fraction_digits(const NumberRange& range) {
  std::int64_t largest = 0;
  for (const auto& bound : {range.low, range.high})
    if (bound) largest = std::max(largest, std::abs(*bound));
  return 15 - static_cast<int>(std::to_string(largest).size());
}

}  // namespace

void add_number(Builder& b, StateId from, StateId to, const NumberRange& range) {
  const StateId minus = b.state();
  b.edge(from, '-', minus);
  if (!range.low && !range.high) {
    const StateId whole = range.integer ? to : b.state();
    add_whole(b, from, whole);
    add_whole(b, minus, whole);
    if (range.integer) return;
    const StateId mantissa = b.state();
    add_fraction(b, whole, mantissa, Fraction::any, kMostDigits);
    b.silent(mantissa, to);
    return add_exponent(b, mantissa, to);
  }
  const std::int64_t low = range.low.value_or(-kLargestWhole),
                     high = range.high.value_or(kLargestWhole);
  const int fraction = fraction_digits(range);
  const Magnitudes positive{std::max<std::int64_t>(low, 0), high, range.low_open && low >= 0,
                            range.high_open, fraction};
  if (high >= 0) add_magnitudes(b, from, to, range.integer, positive);
  const Magnitudes negative{std::max<std::int64_t>(-high, 0), -low, range.high_open && high <= 0,
                            range.low_open, fraction};
  if (low < 0) add_magnitudes(b, minus, to, range.integer, negative);
}

}  // namespace herd::constrain
