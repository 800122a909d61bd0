// What templates call by name: operators, filters, tests, methods, global functions.
#pragma once

#include <array>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "chat/interpreter.h"

namespace herd::chat {

/// A call's arguments put to the names of its parameters, as Python does. Fails on too many,
/// unknown and doubled ones.
class Bound {
 public:
  Bound(std::string_view what, const Arguments& arguments,
        std::initializer_list<std::string_view> parameters, std::size_t required = 0);

  bool has(std::size_t i) const { return values_[i].has_value(); }
  /// REQUIRES: has(i).
  const Value& operator[](std::size_t i) const { return *values_[i]; }
  Value value(std::size_t i, Value fallback) const { return has(i) ? *values_[i] : fallback; }
  bool flag(std::size_t i, bool fallback) const;
  Int integer(std::size_t i, Int fallback) const;                         // fails unless an integer
  std::string_view text(std::size_t i, std::string_view fallback) const;  // fails unless a str

 private:
  std::string what_;
  std::array<std::optional<Value>, 6> values_;
};

// ---- operators (operators.cc) ----

Value binary(Heap& heap, Operator op, const Value& a, const Value& b);
bool relation(Heap& heap, Operator op, const Value& a, const Value& b);
bool contains(Heap& heap, const Value& container, const Value& item);
Value negative(const Value& value);
bool equal_within_budget(Heap& heap, const Value& a, const Value& b);
Value slice(Heap& heap, const Value& value, const Value& begin, const Value& end,
            const Value& stride);
/// What a for sees: items, keys, characters. A generator is used up.
std::vector<Value> iterate(Heap& heap, const Value& value);
std::size_t length(const Value& value);
[[noreturn]] void fail_undefined(const Value& value);

// ---- by name ----

using FilterBody = Value (*)(Interpreter&, const Value&, const Arguments&);
using TestBody = bool (*)(Interpreter&, const Value&, const Arguments&);
FilterBody find_filter(std::string_view name);  // nullptr: no such
TestBody find_test(std::string_view name);
/// Whether values of this type have a method that templates may use.
bool has_method(const Value& self, std::string_view name);
/// REQUIRES: has_method(self, name).
Value call_method(Interpreter& interpreter, const Value& self, std::string_view name,
                  const Arguments& arguments);
Value call_str_method(Interpreter& interpreter, const Value& self, std::string_view name,
                      const Arguments& arguments);
bool is_str_method(std::string_view name);
void add_globals(Heap& heap, Scope& scope);

/// int(text, base) and float(text); nothing where Python raises ValueError.
std::optional<Value> parse_int(std::string_view text, int base);
std::optional<double> parse_real(std::string_view text);

// ---- shared ----

std::vector<Value> dict_pairs(Heap& heap, const Dict& dict);  // (key, value) tuples

/// What `map(attribute=...)` and its kin read: "a.b.0", a number or nothing (the value itself).
class AttributePath {
 public:
  AttributePath(Interpreter& walk, const Value& path);
  Value get(Interpreter& walk, Value value, const Value* fallback = nullptr) const;

 private:
  std::vector<Value> parts_;
};
Value lower_if_str(Heap& heap, const Value& value);
Value soft_str(Interpreter& walk, const Value& value);  // strings stay as they are

/// One table of filters; the files filters_*.cc each have one.
struct NamedFilter {
  std::string_view name;
  FilterBody body;
};
std::span<const NamedFilter> text_filters();
std::span<const NamedFilter> list_filters();
std::span<const NamedFilter> number_filters();

}  // namespace herd::chat
