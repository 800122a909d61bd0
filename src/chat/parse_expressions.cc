#include <algorithm>

#include "chat/failure.h"
#include "chat/heap.h"
#include "chat/parser.h"

namespace herd::chat {

using Kind = Expression::Kind;

namespace {

std::unique_ptr<Expression> make_expression(Kind kind, int line) {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = line;
  return made;
}

Operator operator_of(std::string_view sign) {
  static constexpr std::pair<std::string_view, Operator> kSigns[] = {
      {"+", Operator::add},           {"-", Operator::subtract},      {"*", Operator::multiply},
      {"/", Operator::divide},        {"//", Operator::floor_divide}, {"%", Operator::modulo},
      {"**", Operator::power},        {"==", Operator::equal},        {"!=", Operator::not_equal},
      {"<", Operator::less},          {"<=", Operator::less_equal},   {">", Operator::greater},
      {">=", Operator::greater_equal}};
  for (const auto& [text, op] : kSigns)
    if (text == sign) return op;
  return Operator::add;
}

}  // namespace

// ---- tokens ----

Parser::Nest::Nest(Parser& parser) : parser_(parser) {
  if (++parser_.depth_ > parser_.limits_.depth)
    fail(Code::resource_exhausted,
         fmt::format("blocks and expressions nested more than {} deep", parser_.limits_.depth),
         parser_.now().line);
}

Token Parser::take() {
  Token token = now();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}
bool Parser::skip_op(std::string_view sign) {
  if (!is_op(sign)) return false;
  take();
  return true;
}
bool Parser::skip_name(std::string_view word) {
  if (!is_name(word)) return false;
  take();
  return true;
}
void Parser::unexpected(std::string_view wanted) const {
  fail(Code::invalid_argument, fmt::format("expected {}, found {}", wanted, describe(now())),
       now().line);
}
void Parser::expect_op(std::string_view sign) {
  if (!skip_op(sign)) unexpected(fmt::format("'{}'", sign));
}
void Parser::expect_name(std::string_view word) {
  if (!skip_name(word)) unexpected(fmt::format("'{}'", word));
}
std::string Parser::expect_any_name() {
  if (now().type != TokenType::name) unexpected("a name");
  return take().text;
}
void Parser::expect(TokenType type) {
  if (now().type != type) unexpected(describe(Token{type, {}, {}, 0}));
  take();
}
std::string Parser::qualified_name() {
  std::string name = expect_any_name();
  while (skip_op(".")) name += "." + expect_any_name();
  return name;
}

// ---- nodes ----

ExpressionPtr Parser::finish(std::unique_ptr<Expression> made) const {
  int inside = 0;
  const auto see = [&inside](const ExpressionPtr& e) {
    if (e) inside = std::max(inside, e->height);
  };
  std::for_each(made->operands.begin(), made->operands.end(), see);
  std::for_each(made->arguments.positional.begin(), made->arguments.positional.end(), see);
  for (const auto& [name, value] : made->arguments.named) see(value);
  see(made->arguments.star);
  see(made->arguments.star_star);
  made->height = inside + 1;
  if (made->height > 2 * limits_.depth)
    fail(Code::resource_exhausted,
         fmt::format("an expression of more than {} levels", 2 * limits_.depth), made->line);
  return made;
}
ExpressionPtr Parser::constant(Value value) {
  auto made = make_expression(Kind::constant, now().line);
  made->value = std::move(value);
  return made;
}
ExpressionPtr Parser::wrap(Kind kind, ExpressionPtr operand, int line, std::string name) {
  auto made = make_expression(kind, line);
  made->operands.push_back(std::move(operand));
  made->name = std::move(name);
  return finish(std::move(made));
}

// ---- the grammar ----

ExpressionPtr Parser::expression(bool with_condition) {
  const Nest nest(*this);
  return with_condition ? conditional() : any();
}

ExpressionPtr Parser::tuple(bool with_condition, std::string_view end, bool parentheses) {
  const int line = now().line;
  std::vector<ExpressionPtr> parts;
  bool comma = false;
  const auto ended = [&] {
    return now().type == TokenType::variable_end || now().type == TokenType::block_end ||
           is_op(")") || (!end.empty() && is_name(end));
  };
  while (true) {
    if (!parts.empty()) expect_op(",");
    if (ended()) break;
    parts.push_back(expression(with_condition));
    if (!is_op(",")) break;
    comma = true;
  }
  if (!comma && !parts.empty()) return std::move(parts[0]);
  if (!comma && !parentheses) unexpected("an expression");
  auto made = make_expression(Kind::tuple, line);
  made->operands = std::move(parts);
  return finish(std::move(made));
}

ExpressionPtr Parser::conditional() {
  ExpressionPtr yes = any();
  while (is_name("if")) {
    auto made = make_expression(Kind::conditional, take().line);
    made->operands.push_back(any());
    made->operands.push_back(std::move(yes));
    made->operands.push_back(skip_name("else") ? expression() : nullptr);
    yes = finish(std::move(made));
  }
  return yes;
}

ExpressionPtr Parser::chain(Kind kind, Rule part, std::string_view word, TokenType type) {
  const int line = now().line;
  ExpressionPtr first = (this->*part)();
  if (!now().is(type, word)) return first;
  auto made = make_expression(kind, line);
  made->operands.push_back(std::move(first));
  while (now().is(type, word)) {
    take();
    made->operands.push_back((this->*part)());
  }
  return finish(std::move(made));
}

ExpressionPtr Parser::any() {
  return chain(Kind::any, &Parser::all, "or", TokenType::name);
}
ExpressionPtr Parser::all() {
  return chain(Kind::all, &Parser::logical_not, "and", TokenType::name);
}
ExpressionPtr Parser::concat() {
  return chain(Kind::concat, &Parser::product, "~", TokenType::op);
}

ExpressionPtr Parser::logical_not() {
  if (!is_name("not")) return comparison();
  const Nest nest(*this);
  const int line = take().line;
  return wrap(Kind::logical_not, logical_not(), line);
}

ExpressionPtr Parser::comparison() {
  const int line = now().line;
  ExpressionPtr first = sum();
  std::unique_ptr<Expression> made;
  while (true) {
    static constexpr std::string_view kSigns[] = {"==", "!=", "<", "<=", ">", ">="};
    Operator op = Operator::in;
    if (now().type == TokenType::op &&
        std::find(std::begin(kSigns), std::end(kSigns), now().text) != std::end(kSigns)) {
      op = operator_of(take().text);
    } else if (is_name("not") && ahead().is(TokenType::name, "in")) {
      take();
      take();
      op = Operator::not_in;
    } else if (!skip_name("in")) {
      break;
    }
    if (!made) {
      made = make_expression(Kind::comparison, line);
      made->operands.push_back(std::move(first));
    }
    made->operators.push_back(op);
    made->operands.push_back(sum());
  }
  return made ? finish(std::move(made)) : std::move(first);
}

ExpressionPtr Parser::arithmetic(Rule part, std::initializer_list<std::string_view> signs) {
  const int line = now().line;
  ExpressionPtr first = (this->*part)();
  const auto here = [&] {
    return now().type == TokenType::op &&
           std::find(signs.begin(), signs.end(), now().text) != signs.end();
  };
  if (!here()) return first;
  auto made = make_expression(Kind::arithmetic, line);
  made->operands.push_back(std::move(first));
  while (here()) {
    made->operators.push_back(operator_of(take().text));
    made->operands.push_back((this->*part)());
  }
  return finish(std::move(made));
}

ExpressionPtr Parser::sum() {
  return arithmetic(&Parser::concat, {"+", "-"});
}
ExpressionPtr Parser::product() {
  return arithmetic(&Parser::power, {"*", "/", "//", "%"});
}
ExpressionPtr Parser::power() {
  return arithmetic(&Parser::factor, {"**"});
}
ExpressionPtr Parser::factor() {
  return unary(true);
}

ExpressionPtr Parser::unary(bool with_filters) {
  const Nest nest(*this);
  const int line = now().line;
  ExpressionPtr made;
  if (skip_op("-"))
    made = wrap(Kind::negative, unary(false), line);
  else if (skip_op("+"))
    made = wrap(Kind::positive, unary(false), line);
  else
    made = primary();
  made = postfix(std::move(made));
  return with_filters ? filters_and_tests(std::move(made)) : std::move(made);
}

ExpressionPtr Parser::primary() {
  const Token& token = now();
  if (token.type == TokenType::name) {
    const Token name = take();
    if (name.text == "true" || name.text == "True") return constant(Value(true));
    if (name.text == "false" || name.text == "False") return constant(Value(false));
    if (name.text == "none" || name.text == "None") return constant(Value(None{}));
    seen_caller_ |= name.text == "caller";
    seen_kwargs_ |= name.text == "kwargs";
    seen_varargs_ |= name.text == "varargs";
    auto made = make_expression(Kind::name, name.line);
    made->name = name.text;
    return made;
  }
  if (token.type == TokenType::string) {
    std::string text = take().text;
    while (now().type == TokenType::string) text += take().text;
    return constant(Heap::constant(std::move(text)));
  }
  if (token.type == TokenType::integer || token.type == TokenType::real)
    return constant(take().number);
  if (skip_op("(")) {
    ExpressionPtr inside = tuple(true, {}, true);
    expect_op(")");
    return inside;
  }
  if (is_op("[")) return list();
  if (is_op("{")) return dict();
  unexpected("an expression");
}

ExpressionPtr Parser::list() {
  auto made = make_expression(Kind::list, now().line);
  expect_op("[");
  while (!is_op("]")) {
    if (!made->operands.empty()) expect_op(",");
    if (is_op("]")) break;
    made->operands.push_back(expression());
  }
  expect_op("]");
  return finish(std::move(made));
}

ExpressionPtr Parser::dict() {
  auto made = make_expression(Kind::dict, now().line);
  expect_op("{");
  while (!is_op("}")) {
    if (!made->operands.empty()) expect_op(",");
    if (is_op("}")) break;
    made->operands.push_back(expression());
    expect_op(":");
    made->operands.push_back(expression());
  }
  expect_op("}");
  return finish(std::move(made));
}

ExpressionPtr Parser::postfix(ExpressionPtr operand) {
  while (true) {
    if (is_op(".") || is_op("["))
      operand = subscript(std::move(operand));
    else if (is_op("("))
      operand = call(std::move(operand));
    else
      return operand;
  }
}

ExpressionPtr Parser::filters_and_tests(ExpressionPtr operand) {
  while (true) {
    if (is_op("|"))
      operand = filter_chain(std::move(operand));
    else if (is_name("is"))
      operand = test(std::move(operand));
    else if (is_op("("))
      operand = call(std::move(operand));
    else
      return operand;
  }
}

ExpressionPtr Parser::filter(ExpressionPtr operand) {
  auto made = make_expression(Kind::filter, now().line);
  made->name = qualified_name();
  made->operands.push_back(std::move(operand));
  if (is_op("(")) made->arguments = call_arguments();
  return finish(std::move(made));
}
ExpressionPtr Parser::filter_chain(ExpressionPtr operand) {
  while (skip_op("|")) operand = filter(std::move(operand));
  return operand;
}

ExpressionPtr Parser::test(ExpressionPtr operand) {
  auto made = make_expression(Kind::test, take().line);
  const bool negated = skip_name("not");
  made->name = qualified_name();
  made->operands.push_back(std::move(operand));
  const TokenType type = now().type;
  const bool literal =
      type == TokenType::string || type == TokenType::integer || type == TokenType::real;
  const bool word =
      type == TokenType::name && !is_name("else") && !is_name("or") && !is_name("and");
  if (is_op("(")) {
    made->arguments = call_arguments();
  } else if (literal || word || is_op("[") || is_op("{")) {
    if (is_name("is"))
      fail(Code::invalid_argument, "tests with 'is' cannot be chained", now().line);
    const Nest nest(*this);
    made->arguments.positional.push_back(postfix(primary()));
  }
  const int line = made->line;
  ExpressionPtr done = finish(std::move(made));
  return negated ? wrap(Kind::logical_not, std::move(done), line) : std::move(done);
}

ExpressionPtr Parser::subscript(ExpressionPtr operand) {
  const int line = now().line;
  if (skip_op(".")) {
    if (now().type == TokenType::name)
      return wrap(Kind::attribute, std::move(operand), line, take().text);
    if (now().type != TokenType::integer) unexpected("a name or a number after '.'");
    auto made = make_expression(Kind::item, line);
    made->operands.push_back(std::move(operand));
    made->operands.push_back(constant(take().number));
    return finish(std::move(made));
  }
  expect_op("[");
  auto made = make_expression(Kind::item, line);
  made->operands.push_back(std::move(operand));
  ExpressionPtr first = is_op(":") ? nullptr : is_op("]") ? nullptr : expression();
  if (is_op(":")) {
    made->kind = Kind::slice;
    made->operands.push_back(std::move(first));
    for (int part = 0; part < 2; ++part) {
      const bool given = skip_op(":") && !is_op(":") && !is_op("]");
      made->operands.push_back(given ? expression() : nullptr);
    }
  } else if (is_op(",") || !first) {
    auto key = make_expression(Kind::tuple, line);
    if (first) key->operands.push_back(std::move(first));
    while (skip_op(",") && !is_op("]")) key->operands.push_back(expression());
    made->operands.push_back(finish(std::move(key)));
  } else {
    made->operands.push_back(std::move(first));
  }
  expect_op("]");
  return finish(std::move(made));
}

ExpressionPtr Parser::call(ExpressionPtr operand) {
  auto made = make_expression(Kind::call, now().line);
  made->operands.push_back(std::move(operand));
  made->arguments = call_arguments();
  return finish(std::move(made));
}

CallArguments Parser::call_arguments() {
  CallArguments out;
  const int line = now().line;
  const auto ensure = [line](bool good) {
    if (!good) fail(Code::invalid_argument, "invalid syntax for function call expression", line);
  };
  expect_op("(");
  for (bool first = true; !is_op(")"); first = false) {
    if (!first) expect_op(",");
    if (is_op(")")) break;
    if (skip_op("*")) {
      ensure(!out.star && !out.star_star);
      out.star = expression();
    } else if (skip_op("**")) {
      ensure(!out.star_star);
      out.star_star = expression();
    } else if (now().type == TokenType::name && ahead().is(TokenType::op, "=")) {
      ensure(!out.star_star);
      std::string name = take().text;
      take();
      for (const auto& [other, value] : out.named)
        if (other == name)
          fail(Code::invalid_argument, fmt::format("keyword argument '{}' is repeated", name),
               line);
      out.named.emplace_back(std::move(name), expression());
    } else {
      ensure(!out.star && !out.star_star && out.named.empty());
      out.positional.push_back(expression());
    }
  }
  expect_op(")");
  return out;
}

}  // namespace herd::chat
