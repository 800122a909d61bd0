#include <algorithm>

#include "chat/failure.h"
#include "chat/parser.h"
#include "chat/scopes.h"

namespace herd::chat {

using Kind = Statement::Kind;

namespace {

std::string join_names(std::initializer_list<std::string_view> names) {
  std::string out;
  for (const std::string_view name : names)
    out += fmt::format("{}'{}'", out.empty() ? "" : " or ", name);
  return out;
}

}  // namespace

std::unique_ptr<Statement> Parser::make(Kind kind) const {
  auto made = std::make_unique<Statement>();
  made->kind = kind;
  made->line = now().line;
  return made;
}

Program Parser::run() {
  Program program;
  program.body = body({});
  find_unset_names(program);
  return program;
}

/// Up to the tag whose name is one of `ends`, which stays; without ends up to the end of the text.
Body Parser::body(std::initializer_list<std::string_view> ends) {
  const Nest nest(*this);
  const int begun = now().line;
  Body out;
  while (now().type != TokenType::end) {
    if (now().type == TokenType::data) {
      auto made = make(Kind::text);
      made->text = take().text;
      out.push_back(std::move(made));
    } else if (now().type == TokenType::variable_begin) {
      auto made = make(Kind::output);
      take();
      made->expression = tuple(true);
      expect(TokenType::variable_end);
      out.push_back(std::move(made));
    } else {
      expect(TokenType::block_begin);
      if (now().type == TokenType::name &&
          std::find(ends.begin(), ends.end(), now().text) != ends.end())
        return out;
      if (skip_name("print"))
        parse_print(out);
      else
        out.push_back(statement());
      expect(TokenType::block_end);
    }
  }
  if (ends.size() > 0)
    fail(Code::invalid_argument,
         fmt::format("unexpected end of template: {} is missing for the block begun here",
                     join_names(ends)),
         begun);
  return out;
}

/// The rest of an opening tag, then its body.
Body Parser::block_body(std::initializer_list<std::string_view> ends) {
  skip_op(":");
  expect(TokenType::block_end);
  return body(ends);
}

std::unique_ptr<Statement> Parser::statement() {
  static constexpr std::pair<std::string_view, std::unique_ptr<Statement> (Parser::*)()> kTags[] = {
      {"if", &Parser::parse_if},
      {"for", &Parser::parse_for},
      {"set", &Parser::parse_set},
      {"macro", &Parser::parse_macro},
      {"call", &Parser::parse_call_block},
      {"filter", &Parser::parse_filter_block},
      {"with", &Parser::parse_with},
      {"generation", &Parser::parse_generation},
      {"block", &Parser::parse_block},
      {"break", &Parser::parse_loop_control},
      {"continue", &Parser::parse_loop_control}};
  if (now().type != TokenType::name) unexpected("the name of a tag");
  for (const auto& [name, parse] : kTags)
    if (is_name(name)) return (this->*parse)();
  static constexpr std::string_view kOther[] = {"include", "extends", "import", "from"};
  if (std::find(std::begin(kOther), std::end(kOther), now().text) != std::end(kOther))
    fail(Code::unsupported,
         fmt::format("tag '{}': a chat template cannot read other templates", now().text),
         now().line);
  const bool stray = now().text.starts_with("end") || is_name("else") || is_name("elif");
  if (stray)
    fail(Code::invalid_argument,
         fmt::format("tag '{}' without the block it belongs to", now().text), now().line);
  fail(Code::unsupported, fmt::format("unknown tag '{}'", now().text), now().line);
}

std::unique_ptr<Statement> Parser::parse_if() {
  auto made = make(Kind::condition);
  do {
    take();  // if, elif
    Branch branch;
    branch.test = tuple(false);
    branch.body = block_body({"elif", "else", "endif"});
    made->branches.push_back(std::move(branch));
  } while (is_name("elif"));
  if (skip_name("else")) made->otherwise = block_body({"endif"});
  expect_name("endif");
  return made;
}

std::unique_ptr<Statement> Parser::parse_for() {
  auto made = make(Kind::loop);
  take();
  made->target = target("in", false);
  expect_name("in");
  made->expression = tuple(false, "recursive");
  ++loops_;
  check_target(made->target);
  if (skip_name("if")) made->filter = expression();
  made->recursive = skip_name("recursive");
  made->body = block_body({"endfor", "else"});
  --loops_;
  if (skip_name("else")) made->otherwise = block_body({"endfor"});
  expect_name("endfor");
  return made;
}

void Parser::check_target(const Target& checked) const {
  if (loops_ > 0 && checked.kind == Target::Kind::name && checked.name == "loop")
    fail(Code::invalid_argument, "cannot assign to the special variable 'loop'", checked.line);
  for (const Target& part : checked.parts) check_target(part);
}

std::unique_ptr<Statement> Parser::parse_set() {
  auto made = make(Kind::set);
  take();
  made->target = target("", true);
  check_target(made->target);
  if (skip_op("=")) {
    made->expression = tuple(true);
    return made;
  }
  made->kind = Kind::set_block;
  auto input = std::make_unique<Expression>();
  input->kind = Expression::Kind::input;
  input->line = now().line;
  made->filter = filter_chain(std::move(input));
  made->body = block_body({"endset"});
  expect_name("endset");
  return made;
}

std::vector<Parameter> Parser::signature() {
  std::vector<Parameter> out;
  expect_op("(");
  while (!is_op(")")) {
    if (!out.empty()) expect_op(",");
    if (out.size() >= 255) unexpected("at most 255 parameters");
    Parameter parameter;
    parameter.name = expect_any_name();
    for (const Parameter& other : out)
      if (other.name == parameter.name)
        fail(Code::invalid_argument, fmt::format("parameter '{}' is repeated", other.name),
             now().line);
    if (skip_op("="))
      parameter.fallback = expression();
    else if (!out.empty() && out.back().fallback)
      unexpected("a default, as the parameters before have one");
    out.push_back(std::move(parameter));
  }
  expect_op(")");
  return out;
}

/// The body of a macro or call block, which may ask for caller, kwargs and varargs.
Body Parser::callable_body(std::string_view end, Statement& callable) {
  const bool outer[] = {seen_caller_, seen_kwargs_, seen_varargs_};
  const int loops = std::exchange(loops_, 0);
  seen_caller_ = seen_kwargs_ = seen_varargs_ = false;
  Body out = block_body({end});
  expect_name(end);
  callable.uses_caller = seen_caller_;
  callable.uses_kwargs = seen_kwargs_;
  callable.uses_varargs = seen_varargs_;
  loops_ = loops;
  seen_caller_ |= outer[0];
  seen_kwargs_ |= outer[1];
  seen_varargs_ |= outer[2];
  return out;
}

std::unique_ptr<Statement> Parser::parse_macro() {
  auto made = make(Kind::macro);
  take();
  made->name = expect_any_name();
  made->parameters = signature();
  made->body = callable_body("endmacro", *made);
  return made;
}

std::unique_ptr<Statement> Parser::parse_call_block() {
  auto made = make(Kind::call_block);
  take();
  if (is_op("(")) made->parameters = signature();
  made->expression = expression();
  if (made->expression->kind != Expression::Kind::call)
    fail(Code::invalid_argument, "tag 'call' needs the call of a macro", made->line);
  made->body = callable_body("endcall", *made);
  return made;
}

std::unique_ptr<Statement> Parser::parse_filter_block() {
  auto made = make(Kind::filter_block);
  take();
  auto input = std::make_unique<Expression>();
  input->kind = Expression::Kind::input;
  input->line = now().line;
  made->filter = filter_chain(filter(std::move(input)));
  made->body = block_body({"endfilter"});
  expect_name("endfilter");
  return made;
}

std::unique_ptr<Statement> Parser::parse_with() {
  auto made = make(Kind::with);
  take();
  while (now().type != TokenType::block_end && !is_op(":")) {
    if (!made->bindings.empty()) expect_op(",");
    Target bound = target("", false);
    expect_op("=");
    made->bindings.emplace_back(std::move(bound), expression());
  }
  made->body = block_body({"endwith"});
  expect_name("endwith");
  return made;
}

/// Hugging Face's mark around what the assistant said: a scope, nothing more.
std::unique_ptr<Statement> Parser::parse_generation() {
  auto made = make(Kind::scope);
  take();
  made->body = callable_body("endgeneration", *made);
  return made;
}

std::unique_ptr<Statement> Parser::parse_block() {
  auto made = make(Kind::block);
  take();
  made->name = expect_any_name();
  skip_name("scoped");
  skip_name("required");
  const int loops = std::exchange(loops_, 0);
  made->body = block_body({"endblock"});
  loops_ = loops;
  expect_name("endblock");
  skip_name(made->name);
  return made;
}

std::unique_ptr<Statement> Parser::parse_loop_control() {
  auto made = make(is_name("break") ? Kind::stop : Kind::next);
  if (loops_ == 0)
    fail(Code::invalid_argument, fmt::format("tag '{}' outside a loop", now().text), made->line);
  take();
  return made;
}

void Parser::parse_print(Body& into) {
  for (bool first = true; now().type != TokenType::block_end; first = false) {
    if (!first) expect_op(",");
    auto made = make(Kind::output);
    made->expression = expression();
    into.push_back(std::move(made));
  }
}

Target Parser::one_target(bool with_attributes) {
  const Nest nest(*this);
  if (is_op("(")) {
    take();
    Target inside = target(")", with_attributes);
    expect_op(")");
    return inside;
  }
  Target out;
  out.line = now().line;
  out.name = expect_any_name();
  static constexpr std::string_view kConstants[] = {"true",  "True", "false",
                                                    "False", "none", "None"};
  if (std::find(std::begin(kConstants), std::end(kConstants), out.name) != std::end(kConstants))
    fail(Code::invalid_argument, fmt::format("cannot assign to '{}'", out.name), out.line);
  if (with_attributes && skip_op(".")) {
    out.kind = Target::Kind::attribute;
    out.attribute_name = expect_any_name();
  }
  return out;
}

Target Parser::target(std::string_view end, bool with_attributes) {
  Target first = one_target(with_attributes);
  if (!is_op(",")) return first;
  Target out;
  out.kind = Target::Kind::tuple;
  out.line = first.line;
  out.parts.push_back(std::move(first));
  while (skip_op(",")) {
    const bool ended = is_op("=") || is_op(")") || (!end.empty() && is_name(end)) ||
                       now().type == TokenType::block_end;
    if (ended) break;
    out.parts.push_back(one_target(with_attributes));
  }
  return out;
}

}  // namespace herd::chat
