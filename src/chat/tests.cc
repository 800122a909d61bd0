// What may stand behind `is`.
#include <algorithm>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

using Args = const Arguments&;

template <bool (*Is)(const Value&)>
bool plain(Interpreter&, const Value& value, Args arguments) {
  const Bound bound("test", arguments, {});
  return Is(value);
}
template <Operator op>
bool related(Interpreter& walk, const Value& value, Args arguments) {
  const Bound bound("test", arguments, {""}, 1);
  return relation(walk.heap(), op, value, bound[0]);
}

bool is_defined(const Value& v) {
  return !v.is_undefined();
}
bool is_undefined(const Value& v) {
  return v.is_undefined();
}
bool is_none(const Value& v) {
  return v.is_none();
}
bool is_boolean(const Value& v) {
  return v.is_bool();
}
bool is_true(const Value& v) {
  return v.is_bool() && v.boolean();
}
bool is_false(const Value& v) {
  return v.is_bool() && !v.boolean();
}
bool is_integer(const Value& v) {
  return v.is_int();
}
bool is_float(const Value& v) {
  return v.is_real();
}
bool is_number(const Value& v) {
  return v.is_number();
}
bool is_string(const Value& v) {
  return v.is_str();
}
bool is_mapping(const Value& v) {
  return v.is_dict();
}
bool is_sequence(const Value& v) {
  if (v.is_sequence()) return v.list().flavor <= Flavor::range;
  return v.is_str() || v.is_dict() || v.is_undefined();
}
bool is_iterable(const Value& v) {
  return v.is_str() || v.is_dict() || v.is_sequence() || v.is_undefined() ||
         v.as<Loop>() != nullptr;
}
bool is_callable(const Value& v) {
  return v.is_undefined() || v.as<Macro>() != nullptr || v.as<Function>() != nullptr ||
         v.as<Method>() != nullptr || v.as<Joiner>() != nullptr || v.as<Loop>() != nullptr;
}
bool is_escaped(const Value& v) {
  return v.is_str() && v.str().markup;
}

bool remainder_is(Interpreter& walk, const Value& value, const Value& divisor, Int wanted) {
  const Value rest = binary(walk.heap(), Operator::modulo, value, divisor);
  return equal(rest, Value(wanted));
}
bool is_odd(Interpreter& walk, const Value& value, Args arguments) {
  const Bound bound("odd", arguments, {});
  return remainder_is(walk, value, Value(Int{2}), 1);
}
bool is_even(Interpreter& walk, const Value& value, Args arguments) {
  const Bound bound("even", arguments, {});
  return remainder_is(walk, value, Value(Int{2}), 0);
}
bool is_divisible(Interpreter& walk, const Value& value, Args arguments) {
  const Bound bound("divisibleby", arguments, {"num"}, 1);
  return remainder_is(walk, value, bound[0], 0);
}
bool is_lowercase(Interpreter& walk, const Value& value, Args arguments) {
  const Bound bound("lower", arguments, {});
  return all_lower(walk.str(value));
}
bool is_uppercase(Interpreter& walk, const Value& value, Args arguments) {
  const Bound bound("upper", arguments, {});
  return all_upper(walk.str(value));
}
bool is_same(Interpreter&, const Value& value, Args arguments) {
  const Bound bound("sameas", arguments, {"other"}, 1);
  return value.same_identity(bound[0]);
}
bool is_filter(Interpreter&, const Value& value, Args) {
  return value.is_str() && find_filter(value.text()) != nullptr;
}
bool is_test(Interpreter&, const Value& value, Args) {
  return value.is_str() && find_test(value.text()) != nullptr;
}

struct Named {
  std::string_view name;
  TestBody body;
};
constexpr Named kTests[] = {
    {"defined", plain<is_defined>},
    {"undefined", plain<is_undefined>},
    {"none", plain<is_none>},
    {"boolean", plain<is_boolean>},
    {"true", plain<is_true>},
    {"false", plain<is_false>},
    {"integer", plain<is_integer>},
    {"float", plain<is_float>},
    {"number", plain<is_number>},
    {"string", plain<is_string>},
    {"mapping", plain<is_mapping>},
    {"sequence", plain<is_sequence>},
    {"iterable", plain<is_iterable>},
    {"callable", plain<is_callable>},
    {"escaped", plain<is_escaped>},
    {"odd", is_odd},
    {"even", is_even},
    {"divisibleby", is_divisible},
    {"lower", is_lowercase},
    {"upper", is_uppercase},
    {"sameas", is_same},
    {"filter", is_filter},
    {"test", is_test},
    {"in", related<Operator::in>},
    {"==", related<Operator::equal>},
    {"eq", related<Operator::equal>},
    {"equalto", related<Operator::equal>},
    {"!=", related<Operator::not_equal>},
    {"ne", related<Operator::not_equal>},
    {">", related<Operator::greater>},
    {"gt", related<Operator::greater>},
    {"greaterthan", related<Operator::greater>},
    {">=", related<Operator::greater_equal>},
    {"ge", related<Operator::greater_equal>},
    {"<", related<Operator::less>},
    {"lt", related<Operator::less>},
    {"lessthan", related<Operator::less>},
    {"<=", related<Operator::less_equal>},
    {"le", related<Operator::less_equal>},
};

}  // namespace

TestBody find_test(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTests), std::end(kTests),
                                   [name](const Named& t) { return t.name == name; });
  return found == std::end(kTests) ? nullptr : found->body;
}

}  // namespace herd::chat
