// Walks a Program with the variables of one render.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/ast.h"
#include "chat/heap.h"
#include "chat/objects.h"
#include "chat/value.h"

namespace herd::chat {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// One render; used once, by one thread. Its functions fail with Failure.
class Interpreter {
 public:
  Interpreter(const Program& program, const ChatLimits& limits);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string run(std::string_view variables);
  int line() const { return line_; }  // where it stands, for messages

  // For filters, tests and functions.
  Heap& heap() { return heap_; }
  Value call(const Value& callee, const Arguments& arguments);
  Value filter(std::string_view name, const Value& input, const Arguments& arguments);
  bool test(std::string_view name, const Value& input, const Arguments& arguments);
  Value attribute(const Value& object, std::string_view name);
  Value item(const Value& object, const Value& key);
  std::string str(const Value& value);

 private:
  enum class Flow { normal, stop, next };
  class Nest;   // one level of the walk
  class Inner;  // a scope inside the present one
  class Buffer;

  // Statements (statements.cc).
  Flow run_body(const Body& body);
  Flow run_statement(const Statement& statement);
  Flow run_condition(const Statement& statement);
  Flow run_loop(const Statement& statement);
  Flow run_loop_over(const Statement& statement, std::vector<Value> items, int nesting);
  std::vector<Value> loop_items(const Statement& statement, std::vector<Value> items);
  Flow run_filtered(const Statement& statement, Value& text);
  Flow run_set_block(const Statement& statement);
  Flow run_filter_block(const Statement& statement);
  Flow run_with(const Statement& statement);
  Flow run_block(const Statement& statement);
  void run_call_block(const Statement& statement);
  Macro* make_macro(const Statement& statement);
  void begin_unset(Scope& scope, const std::vector<std::string>& names);
  void write(std::string_view text);
  void assign(const Target& target, const Value& value);
  Value call_macro(const Macro& macro, const Arguments& arguments);
  void bind_macro(const Macro& macro, const Arguments& arguments, Scope& scope);
  Value call_loop(const Loop& loop, const Arguments& arguments);

  // Expressions (expressions.cc).
  Value evaluate(const Expression& expression);
  Value evaluate_compound(const Expression& expression);
  Value look_up(std::string_view name);
  Value evaluate_sequence(const Expression& expression, Flavor flavor);
  Value evaluate_dict(const Expression& expression);
  Value evaluate_slice(const Expression& expression);
  Value evaluate_call(const Expression& expression);
  Value evaluate_concat(const Expression& expression);
  Value evaluate_arithmetic(const Expression& expression);
  Value evaluate_comparison(const Expression& expression);
  Value evaluate_conditional(const Expression& expression);
  Value evaluate_logic(const Expression& expression, bool stop_at);
  Arguments evaluate_arguments(const CallArguments& arguments);

  const Program& program_;
  Heap heap_;
  Value variables_;  // a dict
  Scope globals_;    // range, namespace, ...
  std::shared_ptr<Scope> root_, scope_;
  std::vector<Macro*> macros_;  // their scopes are let go of at the end
  Text output_;
  Text* out_;    // where text goes now: output_ or a buffer
  Value input_;  // of the block that is being filtered
  int line_ = 1, depth_ = 0, calls_ = 0;
};

}  // namespace herd::chat
