// A parsed template: what the parser makes and the interpreter walks. Plain data, never changed.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat/value.h"

namespace herd::chat {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;
struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star, star_star;  // *list, **dict
};

enum class Operator {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in,
};

struct Expression {
  enum class Kind {
    constant,     // value
    name,         // name
    input,        // what a filter block or a set block filters
    tuple,        // operands
    list,         // operands
    dict,         // operands: key, value, key, value
    attribute,    // operands[0] . name
    item,         // operands[0] [ operands[1] ]
    slice,        // operands[0] [ 1 : 2 : 3 ], each may be null
    call,         // operands[0] ( arguments )
    filter,       // operands[0] | name ( arguments )
    test,         // operands[0] is name ( arguments )
    logical_not,  // operands[0]
    negative,     // operands[0]
    positive,     // operands[0]
    any,          // operands with `or` between them
    all,          // operands with `and` between them
    concat,       // operands with `~` between them
    arithmetic,   // operands with operators between them, left to right
    comparison,   // a chain, as in a < b < c
    conditional,  // operands[1] if operands[0] else operands[2], which may be null
  };
  Kind kind = Kind::constant;
  int line = 0;
  int height = 1;  // levels of expressions inside
  std::string name;
  Value value;
  std::vector<ExpressionPtr> operands;
  std::vector<Operator> operators;
  CallArguments arguments;
};

/// What a for, set or with assigns to.
struct Target {
  enum class Kind { name, attribute, tuple };
  Kind kind = Kind::name;
  int line = 0;
  std::string name, attribute_name;  // attribute: of a namespace
  std::vector<Target> parts;
};

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  // null: none
};

struct Branch {
  ExpressionPtr test;
  Body body;
};

struct Statement {
  enum class Kind {
    text,          // text
    output,        // expression
    condition,     // branches, otherwise
    loop,          // for target in expression if filter: body else: otherwise
    set,           // target = expression
    set_block,     // target = body | filter
    macro,         // name, parameters, body
    call_block,    // expression is the call; parameters, body are the caller's
    filter_block,  // filter, body
    with,          // bindings, body
    scope,         // body, in a scope of its own (generation)
    block,         // body, seeing the outermost scope
    stop,          // break
    next,          // continue
  };
  Kind kind = Kind::text;
  int line = 0;
  std::string text, name;
  ExpressionPtr expression, filter;
  Target target;
  Body body, otherwise;
  std::vector<Branch> branches;
  std::vector<Parameter> parameters;
  std::vector<std::pair<Target, ExpressionPtr>> bindings;
  bool recursive = false;                    // a loop that may call itself
  std::vector<std::string> unset;            // names the body's scope begins with, see scopes.h
  std::vector<std::string> unset_otherwise;  // the same for `otherwise`
  bool uses_caller = false, uses_kwargs = false, uses_varargs = false;  // of macro and call_block
};

struct Program {
  Body body;
  std::vector<std::string> unset;
};

}  // namespace herd::chat
