#include <utility>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/walk.h"

namespace herd::chat {

using Kind = Expression::Kind;

std::string Interpreter::str(const Value& value) {
  return to_str(heap_, value);
}

Value Interpreter::look_up(std::string_view name) {
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get())
    if (const Value* found = scope->find(name); found != nullptr) return *found;
  if (const Value* found = variables_.dict().find(name); found != nullptr) return *found;
  if (const Value* found = globals_.find(name); found != nullptr) return *found;
  return heap_.undefined(fmt::format("'{}' is undefined", name));
}

Value Interpreter::evaluate(const Expression& e) {
  heap_.step();
  line_ = e.line;
  if (e.kind == Kind::constant) return e.value;
  if (e.kind == Kind::name) return look_up(e.name);
  const Nest nest(*this);
  return evaluate_compound(e);
}

Value Interpreter::evaluate_compound(const Expression& e) {
  switch (e.kind) {
    case Kind::constant:
    case Kind::name: break;  // evaluate() has them
    case Kind::input: return input_;
    case Kind::tuple: return evaluate_sequence(e, Flavor::tuple);
    case Kind::list: return evaluate_sequence(e, Flavor::list);
    case Kind::dict: return evaluate_dict(e);
    case Kind::attribute: {
      const Value object = evaluate(*e.operands[0]);
      line_ = e.line;
      return attribute(object, e.name);
    }
    case Kind::item: {
      const Value object = evaluate(*e.operands[0]);
      const Value key = evaluate(*e.operands[1]);
      line_ = e.line;
      return item(object, key);
    }
    case Kind::slice: return evaluate_slice(e);
    case Kind::call: return evaluate_call(e);
    case Kind::filter: {
      const Value input = evaluate(*e.operands[0]);
      const Arguments arguments = evaluate_arguments(e.arguments);
      line_ = e.line;
      return filter(e.name, input, arguments);
    }
    case Kind::test: {
      const Value input = evaluate(*e.operands[0]);
      const Arguments arguments = evaluate_arguments(e.arguments);
      line_ = e.line;
      return Value(test(e.name, input, arguments));
    }
    case Kind::logical_not: return Value(!truthy(evaluate(*e.operands[0])));
    case Kind::negative: return chat::negative(evaluate(*e.operands[0]));
    case Kind::positive: {
      const Value operand = evaluate(*e.operands[0]);
      if (operand.is_undefined()) fail_undefined(operand);
      if (!operand.is_number()) wrong("bad operand type for unary +: '{}'", type_name(operand));
      return operand.is_bool() ? Value(operand.integer()) : operand;
    }
    case Kind::any: return evaluate_logic(e, true);
    case Kind::all: return evaluate_logic(e, false);
    case Kind::concat: return evaluate_concat(e);
    case Kind::arithmetic: return evaluate_arithmetic(e);
    case Kind::comparison: return evaluate_comparison(e);
    case Kind::conditional: return evaluate_conditional(e);
  }
  return Value();
}

Value Interpreter::evaluate_sequence(const Expression& e, Flavor flavor) {
  std::vector<Value> items;
  for (const auto& operand : e.operands) items.push_back(evaluate(*operand));
  return heap_.list(std::move(items), flavor);
}

Value Interpreter::evaluate_dict(const Expression& e) {
  Dict dict;
  for (std::size_t i = 0; i < e.operands.size(); i += 2) {
    const Value key = evaluate(*e.operands[i]);
    Value value = evaluate(*e.operands[i + 1]);
    heap_.step(key.is_sequence() ? key.weight() : 0);
    if (!hashable(key)) wrong("unhashable type: '{}'", type_name(key));
    dict.set(key, std::move(value));
  }
  return heap_.dict(std::move(dict));
}

Value Interpreter::evaluate_slice(const Expression& e) {
  const Value object = evaluate(*e.operands[0]);
  Value parts[3];
  for (std::size_t i = 0; i < 3; ++i)
    parts[i] = e.operands[i + 1] ? evaluate(*e.operands[i + 1]) : Value(None{});
  line_ = e.line;
  return slice(heap_, object, parts[0], parts[1], parts[2]);
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments) {
  Arguments out;
  for (const auto& argument : arguments.positional) out.positional.push_back(evaluate(*argument));
  for (const auto& [name, argument] : arguments.named)
    out.named.emplace_back(name, evaluate(*argument));
  if (arguments.star)
    for (Value& value : iterate(heap_, evaluate(*arguments.star)))
      out.positional.push_back(std::move(value));
  if (arguments.star_star) {
    const Value more = evaluate(*arguments.star_star);
    if (!more.is_dict()) wrong("argument after ** must be a mapping, not {}", type_name(more));
    for (const auto& [name, value] : more.dict().entries) {
      if (!name.is_str()) wrong("keywords must be strings, not {}", type_name(name));
      out.named.emplace_back(name.text(), value);
    }
  }
  return out;
}

/// `x.method(...)` without making a value of `x.method`.
Value Interpreter::evaluate_call(const Expression& e) {
  const Expression& callee = *e.operands[0];
  if (callee.kind != Kind::attribute) {
    const Value function = evaluate(callee);
    const Arguments arguments = evaluate_arguments(e.arguments);
    line_ = e.line;
    return call(function, arguments);
  }
  const Value self = evaluate(*callee.operands[0]);
  line_ = e.line;
  if (has_method(self, callee.name)) {
    const Arguments arguments = evaluate_arguments(e.arguments);
    line_ = e.line;
    return call_method(*this, self, callee.name, arguments);
  }
  const Value function = attribute(self, callee.name);
  const Arguments arguments = evaluate_arguments(e.arguments);
  line_ = e.line;
  return call(function, arguments);
}

Value Interpreter::evaluate_concat(const Expression& e) {
  Text out(heap_);
  for (const auto& operand : e.operands) add_str(out, evaluate(*operand));
  return heap_.string(out.take());
}

Value Interpreter::evaluate_arithmetic(const Expression& e) {
  Value left = evaluate(*e.operands[0]);
  for (std::size_t i = 0; i < e.operators.size(); ++i) {
    const Value right = evaluate(*e.operands[i + 1]);
    line_ = e.line;
    heap_.step();
    left = binary(heap_, e.operators[i], left, right);
  }
  return left;
}

Value Interpreter::evaluate_comparison(const Expression& e) {
  Value left = evaluate(*e.operands[0]);
  for (std::size_t i = 0; i < e.operators.size(); ++i) {
    Value right = evaluate(*e.operands[i + 1]);
    line_ = e.line;
    if (!relation(heap_, e.operators[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::evaluate_conditional(const Expression& e) {
  if (truthy(evaluate(*e.operands[0]))) return evaluate(*e.operands[1]);
  if (e.operands[2]) return evaluate(*e.operands[2]);
  return heap_.undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined",
      e.line));
}

/// The first operand that decides, or the last.
Value Interpreter::evaluate_logic(const Expression& e, bool stop_at) {
  Value value;
  for (const auto& operand : e.operands) {
    value = evaluate(*operand);
    if (truthy(value) == stop_at) break;
  }
  return value;
}

// ---- what values offer by name ----

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
  heap_.step();
  if (const auto* macro = callee.as<Macro>(); macro != nullptr)
    return call_macro(*macro, arguments);
  if (const auto* function = callee.as<Function>(); function != nullptr)
    return function->body(*this, arguments);
  if (const auto* method = callee.as<Method>(); method != nullptr)
    return call_method(*this, method->self, method->name, arguments);
  if (const auto* loop = callee.as<Loop>(); loop != nullptr) return call_loop(*loop, arguments);
  if (auto* joiner = callee.as<Joiner>(); joiner != nullptr)
    return std::exchange(joiner->used, true) ? joiner->separator : heap_.string("");
  if (callee.is_undefined()) fail_undefined(callee);
  wrong("'{}' object is not callable", type_name(callee));
}

Value Interpreter::filter(std::string_view name, const Value& input, const Arguments& arguments) {
  const FilterBody body = find_filter(name);
  if (body == nullptr) fail(Code::unsupported, fmt::format("no filter named '{}'", name));
  heap_.step();
  return body(*this, input, arguments);
}

bool Interpreter::test(std::string_view name, const Value& input, const Arguments& arguments) {
  const TestBody body = find_test(name);
  if (body == nullptr) fail(Code::unsupported, fmt::format("no test named '{}'", name));
  heap_.step();
  return body(*this, input, arguments);
}

}  // namespace herd::chat
