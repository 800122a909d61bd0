// The values that have identity, and the range, which remembers how it was made.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "chat/value.h"

namespace herd::chat {

struct Statement;
class Interpreter;
struct Arguments;

struct Range : List {
  Int start = 0, stop = 0, stride = 1;
};

struct Namespace : Object {
  Dict attributes;
  mutable bool showing = false;  // in the middle of its own repr
  std::string_view type_name() const override { return "Namespace"; }
};

/// The names of one block of a template, inside those of the block around it.
class Scope {
 public:
  std::shared_ptr<Scope> parent;

  Value* find(std::string_view name);  // in this scope alone; nullptr if absent
  /// `name` outlives the scope.
  void set(std::string_view name, Value value);

 private:
  std::vector<std::pair<std::string_view, Value>> names_;
  std::unordered_map<std::string_view, std::size_t> index_;  // once there are more than a few
};

/// A macro, or the body of a call block. Holds the scope it was defined in; the interpreter lets go
/// of that at the end, since scopes hold macros.
struct Macro : Object {
  const Statement* definition = nullptr;
  std::shared_ptr<Scope> scope;
  std::string_view name() const;
  std::string_view type_name() const override { return "Macro"; }
};

/// What `loop` is inside a for.
struct Loop : Object {
  std::vector<Value> items;
  std::size_t index = 0;
  int nesting = 0;  // of recursive calls
  const Statement* definition = nullptr;
  std::shared_ptr<Scope> scope;  // around the loop, for recursion
  std::optional<std::vector<Value>> changed;
  std::string_view type_name() const override { return "LoopContext"; }
};

struct Cycler : Object {
  std::vector<Value> items;
  std::size_t at = 0;
  std::string_view type_name() const override { return "Cycler"; }
};
struct Joiner : Object {
  Value separator;
  bool used = false;
  std::string_view type_name() const override { return "Joiner"; }
};

/// A global function.
struct Function : Object {
  using Body = Value (*)(Interpreter&, const Arguments&);
  Body body = nullptr;
  bool type = false;  // a class in Python, such as range
  std::string_view type_name() const override { return type ? "type" : "function"; }
};

/// `value.name`, not called yet.
struct Method : Object {
  Value self;
  std::string name;
  std::string_view type_name() const override { return "builtin_function_or_method"; }
};

}  // namespace herd::chat
