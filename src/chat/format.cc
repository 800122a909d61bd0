// Python's two ways to format: printf-like `%`, and the specifications of str.format.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>

#include "chat/failure.h"
#include "chat/show.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

constexpr int kMostDigits = 4096;  // of a width or precision

struct Spec {
  std::string fill = " ";
  char align = 0, sign = 0, grouping = 0, type = 0;
  bool alternate = false, zero = false;
  int width = 0, precision = -1;
};

int read_number(std::string_view text, std::size_t& at) {
  int value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    value = value * 10 + (text[at] - '0');
    if (value > kMostDigits) wrong("format: a width above {}", kMostDigits);
  }
  return value;
}

std::string group(std::string digits, char separator) {
  for (std::size_t at = digits.size(); at > 3;) {
    at -= 3;
    digits.insert(at, 1, separator);
  }
  return digits;
}

/// Python's default with a precision: as 'g', but 10.0 keeps its ".0" and 100.0 of three digits is
/// 1e+02.
std::string short_digits(double value, int precision) {
  if (!std::isfinite(value)) return show_real(value);
  const std::string scientific = fmt::format("{:.{}e}", value, precision - 1);
  int exponent = 0;
  const char* digits = scientific.data() + scientific.find('e') + 1;
  if (*digits == '+') ++digits;
  std::from_chars(digits, scientific.data() + scientific.size(), exponent);
  std::string out = fmt::format("{:.{}g}", value, precision);
  if (exponent + 1 == precision && out.find('e') == out.npos) {
    std::string mantissa = scientific.substr(0, scientific.find('e'));
    if (mantissa.find('.') != mantissa.npos) {
      mantissa.erase(mantissa.find_last_not_of('0') + 1);
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    return mantissa + scientific.substr(scientific.find('e'));
  }
  return out.find_first_of(".e") == out.npos ? out + ".0" : out;
}

/// fmt's own width may not come from a template: precision is bounded above, then used.
std::string real_digits(double value, const Spec& spec) {
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  switch (spec.type) {
    case 'f':
    case 'F': return fmt::format("{:.{}f}", value, precision);
    case 'e': return fmt::format("{:.{}e}", value, precision);
    case 'E': return fmt::format("{:.{}E}", value, precision);
    case 'g': return fmt::format("{:.{}g}", value, precision);
    case 'G': return fmt::format("{:.{}G}", value, precision);
    case '%': return fmt::format("{:.{}f}%", value * 100, precision);
    default: break;
  }
  return spec.precision < 0 ? show_real(value) : short_digits(value, std::max(precision, 1));
}

std::string int_digits(Int value, const Spec& spec) {
  const auto magnitude = static_cast<unsigned __int128>(value);
  switch (spec.type) {
    case 'x': return (spec.alternate ? "0x" : "") + fmt::format("{:x}", magnitude);
    case 'X': return (spec.alternate ? "0X" : "") + fmt::format("{:X}", magnitude);
    case 'o': return (spec.alternate ? "0o" : "") + fmt::format("{:o}", magnitude);
    case 'b': return (spec.alternate ? "0b" : "") + fmt::format("{:b}", magnitude);
    case 0:
    case 'd':
    case 'i':
    case 'u':
    case 'n': return fmt::format("{}", magnitude);
    default: wrong("format: code '{}' for an integer", spec.type);
  }
}

std::string pad(std::string_view sign, std::string_view body, const Spec& spec, char usual) {
  const std::size_t size = count_points(body) + sign.size();
  const std::size_t missing =
      static_cast<std::size_t>(spec.width) > size ? static_cast<std::size_t>(spec.width) - size : 0;
  const char align = spec.align != 0 ? spec.align : usual;
  const std::size_t before = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  const auto filled = [&](std::size_t n) {
    std::string out;
    for (std::size_t i = 0; i < n; ++i) out += spec.fill;
    return out;
  };
  if (align == '=') return fmt::format("{}{}{}", sign, filled(missing), body);
  return fmt::format("{}{}{}{}", filled(before), sign, body, filled(missing - before));
}

/// Which types a number takes, and with what.
void check_number_spec(const Value& value, const Spec& spec) {
  const std::string_view types = value.is_real() ? "eEfFgGn%" : "bcdeEfFgGnoxX%iu";
  const bool as_int =
      value.is_integral() && (spec.type == 0 || types.substr(0, 3).find(spec.type) != types.npos);
  if (as_int && spec.precision >= 0 && spec.type != 'd') wrong("format: precision for an integer");
  if (spec.type != 0 && types.find(spec.type) == types.npos)
    wrong("format: code '{}' for a {}", spec.type, type_name(value));
}

std::string format_number(const Value& value, Spec spec) {
  check_number_spec(value, spec);
  const bool as_real =
      value.is_real() ||
      (spec.type != 0 && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos);
  const bool negative = as_real ? std::signbit(value.real()) : value.integer() < 0;
  std::string body;
  if (as_real)
    body = real_digits(std::fabs(value.real()), spec);
  else
    body = int_digits(negative ? -value.integer() : value.integer(), spec);
  if (spec.grouping != 0) {
    const std::size_t point = std::min(body.find_first_not_of("0123456789"), body.size());
    body = group(body.substr(0, point), spec.grouping) + body.substr(point);
  }
  const std::string sign = negative                               ? "-"
                           : spec.sign == '+' || spec.sign == ' ' ? std::string(1, spec.sign)
                                                                  : "";
  if (spec.zero && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
  }
  return pad(sign, body, spec, '>');
}

std::string format_text(std::string_view text, const Spec& spec) {
  if (spec.precision >= 0) text = text.substr(0, offset_of(text, spec.precision));
  return pad("", text, spec, '<');
}

Spec read_spec(std::string_view text) {
  Spec spec;
  std::size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!text.empty()) {
    std::size_t after = 0;
    next_point(text, after);
    if (after < text.size() && is_align(text[after])) {
      spec.fill = text.substr(0, after);
      spec.align = text[after];
      at = after + 1;
    } else if (is_align(text[0])) {
      spec.align = text[at++];
    }
  }
  const auto next_is = [&](std::string_view any) {
    return at < text.size() && any.find(text[at]) != any.npos;
  };
  if (next_is("+- ")) spec.sign = text[at++];
  if (next_is("#")) spec.alternate = (++at, true);
  if (next_is("0")) spec.zero = (++at, true);
  spec.width = read_number(text, at);
  if (next_is(",_")) spec.grouping = text[at++];
  if (next_is(".")) spec.precision = read_number(text, ++at);
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) wrong("format: invalid specification '{}'", text);
  return spec;
}

/// The `%` operator at work: one conversion after the other.
class Percent {
 public:
  Percent(Heap& heap, std::string_view form, const Value& values)
      : heap_(heap), form_(form), values_(values), out_(heap) {}

  std::string run() {
    std::size_t at = 0;
    while (at < form_.size()) {
      const std::size_t sign = std::min(form_.find('%', at), form_.size());
      out_.add(form_.substr(at, sign - at));
      at = sign;
      if (at < form_.size()) conversion(++at);
    }
    const bool keyed = !is_tuple() && (values_.is_dict() || values_.is_sequence() ||
                                       values_.is_undefined());  // what can be subscripted
    if (!keyed && used_ != count()) wrong("not all arguments converted during string formatting");
    return out_.take();
  }

 private:
  bool is_tuple() const { return values_.is_sequence() && values_.list().flavor == Flavor::tuple; }
  std::size_t count() const { return is_tuple() ? values_.list().items.size() : 1; }

  Value next() {
    if (used_ >= count()) wrong("not enough arguments for format string");
    return is_tuple() ? values_.list().items[used_++] : (++used_, values_);
  }
  Value named(std::size_t& at) {
    const std::size_t end = form_.find(')', at);
    if (end == form_.npos) wrong("incomplete format key");
    const std::string_view key = form_.substr(at + 1, end - at - 1);
    at = end + 1;
    if (!values_.is_dict()) wrong("format requires a mapping");
    const Value* found = values_.dict().find(key);
    if (found == nullptr) wrong("format: no key '{}'", key);
    return *found;
  }
  void flags(Spec& spec, std::size_t& at) {
    for (; at < form_.size(); ++at) {
      switch (form_[at]) {
        case '-': spec.align = '<'; break;
        case '+': spec.sign = '+'; break;
        case ' ': spec.sign = spec.sign == 0 ? ' ' : spec.sign; break;
        case '#': spec.alternate = true; break;
        case '0': spec.zero = true; break;
        default: return;
      }
    }
  }

  void conversion(std::size_t& at) {
    Spec spec;
    std::optional<Value> value;
    if (at < form_.size() && form_[at] == '(') value = named(at);
    flags(spec, at);
    spec.width = read_number(form_, at);
    if (at < form_.size() && form_[at] == '.') spec.precision = read_number(form_, ++at);
    if (at >= form_.size()) wrong("incomplete format");
    const char type = form_[at++];
    if (type == '%') return out_.add('%');
    add(type, spec, value ? *value : next());
  }

  void add(char type, Spec& spec, const Value& value) {
    if (type == 's' || type == 'r' || type == 'a') {
      const std::string text = type == 's' ? to_str(heap_, value) : to_repr(heap_, value);
      if (spec.align == 0) spec.align = '>';
      return out_.add(format_text(text, spec));
    }
    if (type == 'c') return add_character(value);
    if (std::string_view("diuxXoeEfFgG").find(type) == std::string_view::npos)
      wrong("unsupported format character '{}'", type);
    if (!value.is_number())
      wrong("%{} format: a number is required, not {}", type, type_name(value));
    spec.type = type;
    const bool whole = std::string_view("diuxXo").find(type) != std::string_view::npos;
    if (whole && value.is_real()) {
      if (type == 'x' || type == 'X' || type == 'o')
        wrong("%{} format: an integer is required, not float", type);
      if (!(std::fabs(value.real()) < 1e37))
        wrong("%{} format: {} is no integer", type, value.real());
      return out_.add(format_number(Value(static_cast<Int>(value.real())), spec));
    }
    out_.add(format_number(value, spec));
  }

  void add_character(const Value& value) {
    if (value.is_str() && value.str().points == 1) return out_.add(value.text());
    const Int code = value.is_integral() ? value.integer() : Int{-1};
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      wrong("%c requires a character or its number");
    const char32_t point = static_cast<char32_t>(code);
    out_.add(from_points(std::u32string_view(&point, 1)));
  }

  Heap& heap_;
  std::string_view form_;
  const Value& values_;
  Text out_;
  std::size_t used_ = 0;
};

}  // namespace

std::string format_value(Heap& heap, const Value& value, std::string_view text) {
  if (text.empty()) return to_str(heap, value);
  const Spec spec = read_spec(text);
  if (value.is_str()) {
    if (spec.type != 0 && spec.type != 's') wrong("format: code '{}' for a string", spec.type);
    if (spec.sign != 0 || spec.grouping != 0 || spec.alternate || spec.align == '=')
      wrong("format: '{}' is not for a string", text);
    Spec padded = spec;
    if (spec.zero && spec.align == 0) padded.fill = "0";
    return format_text(value.text(), padded);
  }
  if (spec.type == 'i' || spec.type == 'u') wrong("format: unknown code '{}'", spec.type);
  if (value.is_number()) return format_number(value, spec);
  wrong("unsupported format string passed to {}.__format__", type_name(value));
}

std::string format_percent(Heap& heap, std::string_view form, const Value& values) {
  return Percent(heap, form, values).run();
}

}  // namespace herd::chat
