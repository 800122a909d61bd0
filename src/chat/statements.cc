#include <algorithm>
#include <utility>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/walk.h"

namespace herd::chat {

using Kind = Statement::Kind;

Value* Scope::find(std::string_view name) {
  if (!index_.empty()) {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &names_[found->second].second;
  }
  for (auto& [known, value] : names_)
    if (known == name) return &value;
  return nullptr;
}
void Scope::set(std::string_view name, Value value) {
  constexpr std::size_t kScanned = 16;
  if (Value* known = find(name); known != nullptr) {
    *known = std::move(value);
    return;
  }
  names_.emplace_back(name, std::move(value));
  if (!index_.empty()) {
    index_.emplace(name, names_.size() - 1);
  } else if (names_.size() > kScanned) {
    for (std::size_t i = 0; i < names_.size(); ++i) index_.emplace(names_[i].first, i);
  }
}
std::string_view Macro::name() const {
  return definition->kind == Kind::macro ? std::string_view(definition->name)
                                         : std::string_view("caller");
}

Interpreter::Interpreter(const Program& program, const ChatLimits& limits)
    : program_(program), heap_(limits), output_(heap_), out_(&output_) {}

Interpreter::~Interpreter() {
  for (Macro* macro : macros_) macro->scope.reset();
}

std::string Interpreter::run(std::string_view variables) {
  variables_ = read_json(heap_, variables);
  add_globals(heap_, globals_);
  root_ = scope_ = std::make_shared<Scope>();
  begin_unset(*root_, program_.unset);
  run_body(program_.body);
  return output_.take();
}

void Interpreter::begin_unset(Scope& scope, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    scope.set(name, heap_.undefined(fmt::format("'{}' is undefined", name)));
}

void Interpreter::write(std::string_view text) {
  heap_.work(text.size());
  out_->add(text);
  if (out_ == &output_ && output_.size() > heap_.limits().output_bytes)
    fail(Code::resource_exhausted,
         fmt::format("the rendered text has more than {} bytes", heap_.limits().output_bytes));
}

Interpreter::Flow Interpreter::run_body(const Body& body) {
  const Nest nest(*this);
  for (const auto& statement : body)
    if (const Flow flow = run_statement(*statement); flow != Flow::normal) return flow;
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_statement(const Statement& s) {
  heap_.step();
  line_ = s.line;
  switch (s.kind) {
    case Kind::text: write(s.text); return Flow::normal;
    case Kind::output: {
      const Value value = evaluate(*s.expression);
      if (value.is_str())
        write(value.text());
      else if (!value.is_undefined())
        write(str(value));
      return Flow::normal;
    }
    case Kind::condition: return run_condition(s);
    case Kind::loop: return run_loop(s);
    case Kind::set: assign(s.target, evaluate(*s.expression)); return Flow::normal;
    case Kind::set_block: return run_set_block(s);
    case Kind::macro: scope_->set(s.name, Value(make_macro(s))); return Flow::normal;
    case Kind::call_block: run_call_block(s); return Flow::normal;
    case Kind::filter_block: return run_filter_block(s);
    case Kind::with: return run_with(s);
    case Kind::scope: {
      const Inner inner(*this, scope_, s.unset);
      return run_body(s.body);
    }
    case Kind::block: return run_block(s);
    case Kind::stop: return Flow::stop;
    case Kind::next: return Flow::next;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_condition(const Statement& s) {
  for (const Branch& branch : s.branches)
    if (truthy(evaluate(*branch.test))) return run_body(branch.body);
  return run_body(s.otherwise);
}

Interpreter::Flow Interpreter::run_loop(const Statement& s) {
  const Value over = evaluate(*s.expression);
  line_ = s.line;
  return run_loop_over(s, iterate(heap_, over), 0);
}

/// Those that pass the loop's `if`.
std::vector<Value> Interpreter::loop_items(const Statement& s, std::vector<Value> items) {
  if (!s.filter) return items;
  std::vector<Value> kept;
  for (Value& item : items) {
    heap_.step();
    const Inner inner(*this, scope_, {});
    assign(s.target, item);
    if (truthy(evaluate(*s.filter))) kept.push_back(std::move(item));
  }
  return kept;
}

Interpreter::Flow Interpreter::run_loop_over(const Statement& s, std::vector<Value> items,
                                             int nesting) {
  items = loop_items(s, std::move(items));
  if (items.empty()) {
    const Inner inner(*this, scope_, s.unset_otherwise);
    return run_body(s.otherwise);
  }
  const RunningLoop loop(heap_, std::move(items));
  loop->nesting = nesting;
  loop->definition = &s;
  if (s.recursive) loop->scope = scope_;
  for (loop->index = 0; loop->index < loop->items.size(); ++loop->index) {
    heap_.step();
    const Inner inner(*this, scope_, s.unset);
    scope_->set("loop", Value(loop.get()));
    assign(s.target, loop->items[loop->index]);
    if (run_body(s.body) == Flow::stop) break;
  }
  return Flow::normal;
}

Value Interpreter::call_loop(const Loop& loop, const Arguments& arguments) {
  const Bound bound("loop()", arguments, {"iterable"}, 1);
  if (!loop.definition->recursive) wrong("loop() can be called in loops marked 'recursive' only");
  const Nest nest(*this, Nest::kCall);
  const Buffer buffer(*this);
  const Inner inner(*this, loop.scope, {});
  run_loop_over(*loop.definition, iterate(heap_, bound[0]), loop.nesting + 1);
  return heap_.string(buffer.take());
}

void Interpreter::assign(const Target& target, const Value& value) {
  switch (target.kind) {
    case Target::Kind::name: scope_->set(target.name, value); return;
    case Target::Kind::attribute: {
      line_ = target.line;
      auto* space = look_up(target.name).as<Namespace>();
      if (space == nullptr)
        wrong("cannot assign attribute '{}': '{}' is no namespace", target.attribute_name,
              target.name);
      set_attribute(*space, heap_.string(target.attribute_name), value);
      return;
    }
    case Target::Kind::tuple: break;
  }
  line_ = target.line;
  const std::vector<Value> parts = iterate(heap_, value);
  if (parts.size() != target.parts.size())
    wrong("cannot unpack {} values into {} names", parts.size(), target.parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) assign(target.parts[i], parts[i]);
}

/// The body's output through the statement's filters; `text` is set when the flow is normal.
Interpreter::Flow Interpreter::run_filtered(const Statement& s, Value& text) {
  const Buffer buffer(*this);
  const Inner inner(*this, scope_, s.unset);
  if (const Flow flow = run_body(s.body); flow != Flow::normal) return flow;
  const Value input = std::exchange(input_, heap_.string(buffer.take()));
  text = evaluate(*s.filter);
  input_ = input;
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_set_block(const Statement& s) {
  Value text;
  const Flow flow = run_filtered(s, text);
  if (flow == Flow::normal) assign(s.target, text);
  return flow;
}

Interpreter::Flow Interpreter::run_filter_block(const Statement& s) {
  Value text;
  const Flow flow = run_filtered(s, text);
  if (flow != Flow::normal) return flow;
  if (!text.is_str()) wrong("tag 'filter' must give a str, not {}", type_name(text));
  write(text.text());
  return flow;
}

Interpreter::Flow Interpreter::run_with(const Statement& s) {
  std::vector<Value> values;
  for (const auto& [target, expression] : s.bindings) values.push_back(evaluate(*expression));
  const Inner inner(*this, scope_, s.unset);
  for (std::size_t i = 0; i < values.size(); ++i) assign(s.bindings[i].first, values[i]);
  return run_body(s.body);
}

Interpreter::Flow Interpreter::run_block(const Statement& s) {
  const Inner inner(*this, root_, {});
  run_body(s.body);
  return Flow::normal;
}

// ---- macros ----

Macro* Interpreter::make_macro(const Statement& s) {
  auto* macro = heap_.object<Macro>();
  macro->definition = &s;
  macro->scope = scope_;
  macros_.push_back(macro);
  return macro;
}

void Interpreter::run_call_block(const Statement& s) {
  const Expression& expression = *s.expression;
  Arguments arguments = evaluate_arguments(expression.arguments);
  const Value callee = evaluate(*expression.operands[0]);
  arguments.named.emplace_back("caller", Value(make_macro(s)));
  line_ = s.line;
  write(str(call(callee, arguments)));
}

void Interpreter::bind_macro(const Macro& macro, const Arguments& arguments, Scope& scope) {
  const Statement& s = *macro.definition;
  const auto name = macro.name();
  std::vector<bool> used(arguments.named.size(), false);
  const auto take_named = [&](std::string_view wanted) -> const Value* {
    for (std::size_t i = 0; i < used.size(); ++i)
      if (!used[i] && arguments.named[i].first == wanted) {
        used[i] = true;
        return &arguments.named[i].second;
      }
    return nullptr;
  };
  std::vector<bool> given(s.parameters.size(), false);
  bool caller_is_parameter = false;
  for (std::size_t i = 0; i < s.parameters.size(); ++i) {
    const std::string& parameter = s.parameters[i].name;
    caller_is_parameter |= parameter == "caller";
    const Value* value =
        i < arguments.positional.size() ? &arguments.positional[i] : take_named(parameter);
    given[i] = value != nullptr;
    scope.set(parameter, value != nullptr ? *value
                                          : heap_.undefined(fmt::format(
                                                "parameter '{}' was not provided", parameter)));
  }
  if (s.uses_caller && !caller_is_parameter) {
    const Value* caller = take_named("caller");
    const bool none = caller == nullptr || caller->is_none();
    scope.set("caller", none ? heap_.undefined("No caller defined") : *caller);
  }
  Dict rest;
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    if (!s.uses_kwargs)
      wrong("macro '{}' takes no keyword argument '{}'", name, arguments.named[i].first);
    rest.set(heap_.string(arguments.named[i].first), arguments.named[i].second);
  }
  const auto parameter_named = [&](std::string_view wanted) {
    return scope.find(wanted) != nullptr;
  };
  if (s.uses_kwargs && !parameter_named("kwargs")) scope.set("kwargs", heap_.dict(std::move(rest)));
  const std::size_t extra = std::min(s.parameters.size(), arguments.positional.size());
  if (s.uses_varargs && !parameter_named("varargs"))
    scope.set("varargs",
              heap_.list({arguments.positional.begin() + static_cast<std::ptrdiff_t>(extra),
                          arguments.positional.end()},
                         Flavor::tuple));
  else if (arguments.positional.size() > extra)
    wrong("macro '{}' takes not more than {} argument(s)", name, s.parameters.size());
  for (std::size_t i = 0; i < given.size(); ++i)  // may read the parameters before it
    if (!given[i] && s.parameters[i].fallback)
      scope.set(s.parameters[i].name, evaluate(*s.parameters[i].fallback));
}

Value Interpreter::call_macro(const Macro& macro, const Arguments& arguments) {
  const Nest nest(*this, Nest::kCall);
  const Buffer buffer(*this);
  const Inner inner(*this, macro.scope, macro.definition->unset);
  bind_macro(macro, arguments, *scope_);
  run_body(macro.definition->body);
  return heap_.string(buffer.take());
}

}  // namespace herd::chat
