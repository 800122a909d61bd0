// Arithmetic, comparison, membership and slicing, as Python has them.
#include <algorithm>
#include <cmath>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

constexpr std::string_view kSigns[] = {
    "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

std::string_view sign_of(Operator op) {
  return kSigns[static_cast<std::size_t>(op)];
}

[[noreturn]] void too_big(Operator op) {
  fail(Code::out_of_range,
       fmt::format("the result of '{}' is an integer of more than 127 bits", sign_of(op)));
}
[[noreturn]] void no_operands(Operator op, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b})
    if (v->is_undefined()) fail_undefined(*v);
  if (op == Operator::add && a.is_str())
    wrong("can only concatenate str (not \"{}\") to str", type_name(b));
  wrong("unsupported operand type(s) for {}: '{}' and '{}'", sign_of(op), type_name(a),
        type_name(b));
}

Int floor_divide(Int a, Int b) {
  const Int quotient = a / b;
  return quotient * b != a && ((a < 0) != (b < 0)) ? quotient - 1 : quotient;
}

Value int_power(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) wrong("0.0 cannot be raised to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  Int result = 1;
  while (exponent > 0) {
    if (exponent % 2 == 1 && __builtin_mul_overflow(result, base, &result))
      too_big(Operator::power);
    exponent /= 2;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) too_big(Operator::power);
  }
  return Value(result);
}

Value int_arithmetic(Operator op, Int a, Int b) {
  Int out = 0;
  bool over = false;
  switch (op) {
    case Operator::add: over = __builtin_add_overflow(a, b, &out); break;
    case Operator::subtract: over = __builtin_sub_overflow(a, b, &out); break;
    case Operator::multiply: over = __builtin_mul_overflow(a, b, &out); break;
    case Operator::power: return int_power(a, b);
    default: break;
  }
  const bool divides =
      op == Operator::divide || op == Operator::floor_divide || op == Operator::modulo;
  if (divides && b == 0) wrong("division by zero");
  if (op == Operator::divide) return Value(static_cast<double>(a) / static_cast<double>(b));
  if (divides && b == -1 && __builtin_sub_overflow(Int{0}, a, &out)) too_big(op);
  if (op == Operator::floor_divide) return Value(floor_divide(a, b));
  if (op == Operator::modulo) return Value(b == -1 ? Int{0} : a - floor_divide(a, b) * b);
  if (over) too_big(op);
  return Value(out);
}

double real_modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest != 0) return (b < 0) != (rest < 0) ? rest + b : rest;
  return std::copysign(0.0, b);
}
double real_floor_divide(double a, double b) {
  const double quotient = (a - real_modulo(a, b)) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

double real_arithmetic(Operator op, double a, double b) {
  if (b == 0 && (op == Operator::divide || op == Operator::floor_divide || op == Operator::modulo))
    wrong("division by zero");
  switch (op) {
    case Operator::add: return a + b;
    case Operator::subtract: return a - b;
    case Operator::multiply: return a * b;
    case Operator::divide: return a / b;
    case Operator::floor_divide: return real_floor_divide(a, b);
    case Operator::modulo: return real_modulo(a, b);
    default: break;
  }
  if (a == 0 && b < 0) wrong("0.0 cannot be raised to a negative power");
  if (a < 0 && std::floor(b) != b) wrong("a negative number to a fractional power is complex");
  return std::pow(a, b);
}

std::string markup_text(const Value& value) {
  return value.str().markup ? value.str().text : escape_html(value.text());
}

Value add_text(Heap& heap, const Value& a, const Value& b) {
  heap.room(a.text().size() + b.text().size());
  if (a.str().markup || b.str().markup) {
    heap.work(6 * (a.text().size() + b.text().size()));
    return heap.string(markup_text(a) + markup_text(b), true);
  }
  return heap.string(a.str().text + b.str().text);
}

Value repeat(Heap& heap, const Value& value, Int times) {
  constexpr Int kMost = Int{1} << 40;
  const auto count = static_cast<std::size_t>(std::clamp(times, Int{0}, kMost));
  if (value.is_str()) {
    Text out(heap);
    out.repeat(value.text(), count);
    return heap.string(out.take(), value);
  }
  const auto& items = value.list().items;
  std::size_t total = 0;
  if (__builtin_mul_overflow(items.size(), count, &total) ||
      total > heap.limits().memory_bytes / sizeof(Value))
    fail(Code::resource_exhausted, "a list of too many items");
  std::vector<Value> out;
  out.reserve(total);
  for (std::size_t i = 0; i < count && !items.empty(); ++i)
    out.insert(out.end(), items.begin(), items.end());
  return heap.list(std::move(out), value.list().flavor);
}

bool can_repeat(const Value& value) {
  return value.is_str() || (value.is_sequence() && value.list().flavor <= Flavor::tuple);
}

Value add_lists(Heap& heap, const Value& a, const Value& b) {
  std::vector<Value> items = a.list().items;
  items.insert(items.end(), b.list().items.begin(), b.list().items.end());
  return heap.list(std::move(items), a.list().flavor);
}

bool in_generator(Heap& heap, List& list, const Value& item) {
  while (list.next < list.items.size()) {
    heap.step();
    if (equal_within_budget(heap, list.items[list.next++], item)) return true;
  }
  return false;
}

struct Cut {
  Int begin = 0, end = 0, stride = 1;
};

/// Python's slice.indices.
Cut cut_of(const Value& begin, const Value& end, const Value& stride, Int count) {
  for (const Value* v : {&begin, &end, &stride})
    if (!v->is_none() && !v->is_integral())
      wrong("slice indices must be integers or None, not {}", type_name(*v));
  Cut cut;
  constexpr Int kFar = Int{1} << 62;
  if (!stride.is_none()) cut.stride = std::clamp(stride.integer(), -kFar, kFar);
  if (cut.stride == 0) wrong("slice step cannot be zero");
  const bool down = cut.stride < 0;
  const Int low = down ? -1 : 0, high = down ? count - 1 : count;
  const auto place = [&](const Value& v, Int usual) {
    if (v.is_none()) return usual;
    const Int at = v.integer() < 0 ? v.integer() + count : v.integer();
    return std::clamp(at, low, high);
  };
  cut.begin = place(begin, down ? high : low);
  cut.end = place(end, down ? low : high);
  return cut;
}

Value slice_text(Heap& heap, const Value& value, const Cut& cut) {
  const std::string_view text = value.text();
  heap.work(text.size());
  if (cut.stride == 1) {
    if (cut.begin >= cut.end) return heap.string("", value);
    const auto begin = static_cast<std::size_t>(cut.begin), end = static_cast<std::size_t>(cut.end);
    const bool plain = value.str().ascii();
    const std::size_t from = plain ? begin : offset_of(text, begin);
    const std::size_t to = plain ? end : from + offset_of(text.substr(from), end - begin);
    return heap.string(std::string(text.substr(from, to - from)), value);
  }
  heap.room(8 * text.size());
  const std::u32string points = to_points(text);
  std::u32string out;
  for (Int i = cut.begin; cut.stride > 0 ? i < cut.end : i > cut.end; i += cut.stride)
    out += points[static_cast<std::size_t>(i)];
  return heap.string(from_points(out), value);
}

}  // namespace

void fail_undefined(const Value& value) {
  const auto& why = value.undefined().why;
  wrong("{}", why ? why->text : "the value is undefined");
}

bool equal_within_budget(Heap& heap, const Value& a, const Value& b) {
  if (a.weight() > 1 && b.weight() > 1) heap.step(std::min(a.weight(), b.weight()) / 16);
  return equal(a, b);
}

Value binary(Heap& heap, Operator op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return int_arithmetic(op, a.integer(), b.integer());
    return Value(real_arithmetic(op, a.real(), b.real()));
  }
  if (op == Operator::modulo && a.is_str())
    return heap.string(format_percent(heap, a.text(), b), a);
  if (a.is_undefined() || b.is_undefined()) no_operands(op, a, b);
  if (op == Operator::add) {
    if (a.is_str() && b.is_str()) return add_text(heap, a, b);
    const bool lists = a.is_sequence() && b.is_sequence() && a.list().flavor == b.list().flavor;
    if (lists && a.list().flavor <= Flavor::tuple) return add_lists(heap, a, b);
  }
  if (op == Operator::multiply) {
    if (can_repeat(a) && b.is_integral()) return repeat(heap, a, b.integer());
    if (can_repeat(b) && a.is_integral()) return repeat(heap, b, a.integer());
  }
  no_operands(op, a, b);
}

Value negative(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_real()) return Value(-value.real());
  if (!value.is_integral()) wrong("bad operand type for unary -: '{}'", type_name(value));
  return int_arithmetic(Operator::subtract, 0, value.integer());
}

bool relation(Heap& heap, Operator op, const Value& a, const Value& b) {
  heap.step();
  if (op == Operator::equal) return equal_within_budget(heap, a, b);
  if (op == Operator::not_equal) return !equal_within_budget(heap, a, b);
  if (op == Operator::in) return contains(heap, b, a);
  if (op == Operator::not_in) return !contains(heap, b, a);
  heap.step(std::min(a.weight(), b.weight()) / 16);
  const int order = compare(a, b, sign_of(op));
  switch (op) {
    case Operator::less: return order == -1;
    case Operator::less_equal: return order == -1 || order == 0;
    case Operator::greater: return order == 1;
    default: return order == 1 || order == 0;
  }
}

bool contains(Heap& heap, const Value& container, const Value& item) {
  if (container.is_str()) {
    if (!item.is_str())
      wrong("'in <string>' requires string as left operand, not {}", type_name(item));
    heap.work(container.text().size());
    return find_text(container.text(), item.text(), 0) != std::string_view::npos;
  }
  if (container.is_dict()) {
    heap.step(item.is_sequence() ? item.weight() : 0);
    if (!hashable(item)) wrong("unhashable type: '{}'", type_name(item));
    return container.dict().find(item) != nullptr;
  }
  if (container.is_undefined()) return false;
  if (!container.is_sequence())
    wrong("argument of type '{}' is not iterable", type_name(container));
  List& list = container.list();
  if (list.flavor == Flavor::generator) return in_generator(heap, list, item);
  heap.step(list.items.size() / 16);
  return std::any_of(list.items.begin(), list.items.end(), [&](const Value& other) {
    return other.same_identity(item) || equal_within_budget(heap, other, item);
  });
}

Value slice(Heap& heap, const Value& value, const Value& begin, const Value& end,
            const Value& stride) {
  if (value.is_undefined()) fail_undefined(value);
  const bool can = value.is_str() || (value.is_sequence() && value.list().flavor <= Flavor::range);
  if (!can) wrong("'{}' object cannot be sliced", type_name(value));
  const Cut cut = cut_of(begin, end, stride, static_cast<Int>(length(value)));
  if (value.is_str()) return slice_text(heap, value, cut);
  const List& list = value.list();
  if (list.flavor == Flavor::range) {
    const auto& range = static_cast<const Range&>(list);
    return heap.range(range.start + cut.begin * range.stride, range.start + cut.end * range.stride,
                      range.stride * cut.stride);
  }
  std::vector<Value> out;
  for (Int i = cut.begin; cut.stride > 0 ? i < cut.end : i > cut.end; i += cut.stride)
    out.push_back(list.items[static_cast<std::size_t>(i)]);
  return heap.list(std::move(out), list.flavor);
}

std::size_t length(const Value& value) {
  if (value.is_str()) return value.str().points;
  if (value.is_dict()) return value.dict().entries.size();
  if (value.is_undefined()) return 0;
  if (value.is_sequence() && value.list().flavor != Flavor::generator)
    return value.list().items.size();
  if (const auto* loop = value.as<Loop>(); loop != nullptr) return loop->items.size();
  wrong("object of type '{}' has no len()", type_name(value));
}

std::vector<Value> iterate(Heap& heap, const Value& value) {
  std::vector<Value> out;
  if (value.is_undefined()) return out;
  if (value.is_str()) {
    heap.step(value.str().points / 8);
    heap.room(value.str().points * sizeof(Str));
    for (const std::string_view point : split_points(value.text()))
      out.push_back(heap.string(std::string(point), value));
    return out;
  }
  if (value.is_dict()) {
    for (const auto& [key, member] : value.dict().entries) out.push_back(key);
    return out;
  }
  if (!value.is_sequence()) wrong("'{}' object is not iterable", type_name(value));
  List& list = value.list();
  heap.step(list.items.size() / 64);
  if (list.flavor != Flavor::generator) return list.items;
  out.assign(list.items.begin() + static_cast<std::ptrdiff_t>(list.next), list.items.end());
  list.next = list.items.size();
  return out;
}

}  // namespace herd::chat
