// Tokens to a Program: Jinja's grammar, without what reads other templates.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/ast.h"
#include "chat/lexer.h"
#include "herd/chat.h"

namespace herd::chat {

/// One parse. Fails with invalid_argument, unsupported or resource_exhausted, naming the line.
class Parser {
 public:
  Parser(std::vector<Token> tokens, const ChatLimits& limits)
      : tokens_(std::move(tokens)), limits_(limits) {}
  Program run();

 private:
  // Statements (parse_statements.cc).
  Body body(std::initializer_list<std::string_view> ends);
  Body block_body(std::initializer_list<std::string_view> ends);
  std::unique_ptr<Statement> statement();
  std::unique_ptr<Statement> make(Statement::Kind kind) const;
  std::unique_ptr<Statement> parse_if();
  std::unique_ptr<Statement> parse_for();
  std::unique_ptr<Statement> parse_set();
  std::unique_ptr<Statement> parse_macro();
  std::unique_ptr<Statement> parse_call_block();
  std::unique_ptr<Statement> parse_filter_block();
  std::unique_ptr<Statement> parse_with();
  std::unique_ptr<Statement> parse_generation();
  std::unique_ptr<Statement> parse_block();
  std::unique_ptr<Statement> parse_loop_control();
  void parse_print(Body& into);
  std::vector<Parameter> signature();
  Body callable_body(std::string_view end, Statement& callable);
  Target target(std::string_view end, bool with_attributes);
  Target one_target(bool with_attributes);
  void check_target(const Target& target) const;

  // Expressions (parse_expressions.cc), loosest binding first.
  ExpressionPtr expression(bool with_condition = true);
  ExpressionPtr tuple(bool with_condition, std::string_view end = {}, bool parentheses = false);
  ExpressionPtr conditional();
  ExpressionPtr any();
  ExpressionPtr all();
  ExpressionPtr logical_not();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concat();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr factor();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr postfix(ExpressionPtr operand);
  ExpressionPtr filters_and_tests(ExpressionPtr operand);
  ExpressionPtr filter(ExpressionPtr operand);
  ExpressionPtr filter_chain(ExpressionPtr operand);
  ExpressionPtr test(ExpressionPtr operand);
  ExpressionPtr subscript(ExpressionPtr operand);
  ExpressionPtr call(ExpressionPtr operand);
  ExpressionPtr list();
  ExpressionPtr dict();
  CallArguments call_arguments();
  using Rule = ExpressionPtr (Parser::*)();
  ExpressionPtr chain(Expression::Kind kind, Rule part, std::string_view word, TokenType type);
  ExpressionPtr arithmetic(Rule part, std::initializer_list<std::string_view> signs);
  ExpressionPtr constant(Value value);
  ExpressionPtr wrap(Expression::Kind kind, ExpressionPtr operand, int line, std::string name = {});
  ExpressionPtr finish(std::unique_ptr<Expression> made) const;

  // Tokens.
  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take();
  bool is_op(std::string_view sign) const { return now().is(TokenType::op, sign); }
  bool is_name(std::string_view word) const { return now().is(TokenType::name, word); }
  bool skip_op(std::string_view sign);
  bool skip_name(std::string_view word);
  void expect_op(std::string_view sign);
  void expect_name(std::string_view word);
  std::string expect_any_name();
  void expect(TokenType type);
  std::string qualified_name();
  [[noreturn]] void unexpected(std::string_view wanted) const;

  /// One level of nesting, given back at the end of its scope.
  class Nest {
   public:
    explicit Nest(Parser& parser);
    ~Nest() { --parser_.depth_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    Parser& parser_;
  };

  std::vector<Token> tokens_;
  ChatLimits limits_;
  std::size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
  bool seen_caller_ = false, seen_kwargs_ = false, seen_varargs_ = false;
};

}  // namespace herd::chat
