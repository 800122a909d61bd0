// Filters that make numbers, and Python's int() and float() of text.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

using Args = const Arguments&;

/// Single underscores between digits are allowed; nothing otherwise.
bool drop_underscores(std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const auto alnum = [](char c) {
      return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    };
    if (i == 0 || i + 1 == text.size() || !alnum(text[i - 1]) || !alnum(text[i + 1])) return false;
  }
  text = std::move(out);
  return true;
}

std::string lower_ascii(std::string_view text) {
  std::string out(strip(text, Side::both));
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return out;
}

Value int_of(double value) {
  if (!(std::fabs(value) < 1.7e38))
    fail(Code::out_of_range, fmt::format("int of {}: not within 127 bits", show_real(value)));
  return Value(static_cast<Int>(value));
}

Value to_int(Interpreter&, const Value& input, Args arguments) {
  const Bound bound("int", arguments, {"default", "base"});
  const Value otherwise = bound.value(0, Value(Int{0}));
  if (input.is_undefined()) fail_undefined(input);
  if (input.is_integral()) return Value(input.integer());
  if (input.is_real()) return std::isnan(input.real()) ? otherwise : int_of(input.real());
  if (!input.is_str()) return otherwise;
  const Int base = bound.integer(1, 10);
  if (base != 0 && (base < 2 || base > 36)) wrong("int(): base {} is not 2 to 36", show_int(base));
  if (const auto value = parse_int(input.text(), static_cast<int>(base))) return *value;
  const auto real = parse_real(input.text());
  return real && std::isfinite(*real) ? int_of(*real) : otherwise;
}

Value to_float(Interpreter&, const Value& input, Args arguments) {
  const Bound bound("float", arguments, {"default"});
  if (input.is_undefined()) fail_undefined(input);
  if (input.is_number()) return Value(input.real());
  const auto real = input.is_str() ? parse_real(input.text()) : std::nullopt;
  return real ? Value(*real) : bound.value(0, Value(0.0));
}

Value absolute(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("abs", arguments, {});
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_number()) wrong("bad operand type for abs(): '{}'", type_name(input));
  if (input.is_real()) return Value(std::fabs(input.real()));
  if (input.integer() >= 0) return Value(input.integer());
  return binary(walk.heap(), Operator::subtract, Value(Int{0}), input);
}

Value round_int(Int value, Int digits) {
  if (digits >= 0) return Value(value);
  if (digits < -37) return Value(Int{0});
  Int unit = 1;
  for (Int i = 0; i < -digits; ++i) unit *= 10;
  const Int down = value / unit - (value % unit < 0 ? 1 : 0), rest = value - down * unit;
  const bool up = rest > unit - rest || (rest == unit - rest && down % 2 != 0);
  Int out = 0;
  if (__builtin_mul_overflow(down + (up ? 1 : 0), unit, &out))
    fail(Code::out_of_range, "round: the result has more than 127 bits");
  return Value(out);
}

/// To the nearest, ties to the even digit of the value as it really is.
double round_real(double value, Int digits) {
  if (!std::isfinite(value) || digits > 320) return value;
  if (digits < -308) return std::copysign(0.0, value);
  if (digits < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(value / unit) * unit;
  }
  const std::string text = fmt::format("{:.{}f}", value, static_cast<int>(digits));
  double out = value;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

Value round(Interpreter&, const Value& input, Args arguments) {
  const Bound bound("round", arguments, {"precision", "method"});
  const std::string_view method = bound.text(1, "common");
  const Int digits = bound.integer(0, 0);
  if (method != "common" && method != "ceil" && method != "floor")
    wrong("round: method must be common, ceil or floor, not '{}'", method);
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_number()) wrong("filter 'round' needs a number, not {}", type_name(input));
  if (method == "common")
    return input.is_integral() ? round_int(input.integer(), digits)
                               : Value(round_real(input.real(), digits));
  const double unit = std::pow(10.0, static_cast<double>(digits));
  if (!std::isfinite(unit)) wrong("round: precision {} is too large", show_int(digits));
  const double scaled = input.real() * unit;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

constexpr NamedFilter kFilters[] = {
    {"abs", absolute}, {"float", to_float}, {"int", to_int}, {"round", round}};

}  // namespace

std::span<const NamedFilter> number_filters() {
  return kFilters;
}

std::optional<Value> parse_int(std::string_view source, int base) {
  std::string text = lower_ascii(source);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.erase(0, 1);
  const std::pair<std::string_view, int> prefixes[] = {{"0x", 16}, {"0o", 8}, {"0b", 2}};
  for (const auto& [prefix, meaning] : prefixes) {
    if (!text.starts_with(prefix) || (base != meaning && base != 0)) continue;
    text.erase(0, 2);
    if (text.starts_with('_')) text.erase(0, 1);
    base = meaning;
  }
  if (!drop_underscores(text) || text.empty()) return std::nullopt;
  if (base == 0) {
    if (text[0] == '0' && text.find_first_not_of('0') != text.npos) return std::nullopt;
    base = 10;
  }
  Int value = 0;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
    if (digit >= base) return std::nullopt;
    if (__builtin_mul_overflow(value, Int{base}, &value) ||
        __builtin_add_overflow(value, Int{digit}, &value))
      fail(Code::out_of_range, "int(): more than 127 bits");
  }
  return Value(negative ? -value : value);
}

std::optional<double> parse_real(std::string_view source) {
  std::string text = lower_ascii(source);
  if (!drop_underscores(text)) return std::nullopt;
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.erase(0, 1);
  const double sign = negative ? -1.0 : 1.0;
  if (text == "inf" || text == "infinity") return sign * INFINITY;
  if (text == "nan") return std::nan("");
  if (text.empty() || text.find_first_not_of("0123456789.e+-") != text.npos || text[0] == '-' ||
      text[0] == '+')
    return std::nullopt;
  if (text[0] == '.') text.insert(0, "0");
  double value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (read.ptr != text.data() + text.size()) return std::nullopt;
  if (read.ec == std::errc::result_out_of_range) {
    const std::size_t e = text.find("e-");
    return sign * (e == text.npos ? INFINITY : 0.0);
  }
  return read.ec == std::errc() ? std::optional<double>(sign * value) : std::nullopt;
}

}  // namespace herd::chat
