#include "chat/lexer.h"

#include <algorithm>
#include <charconv>

#include "chat/failure.h"
#include "chat/string_literal.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

constexpr auto kNone = std::string_view::npos;

/// Every line end becomes \n, and one at the end of the text is dropped.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    const bool pair = source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n';
    if (!pair) out += source[i] == '\r' ? '\n' : source[i];
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_ascii_digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize(source)) {}
  std::vector<Token> run();

 private:
  enum class Tag { none, comment, raw, block, variable };
  struct Opening {
    Tag tag = Tag::none;
    std::size_t at = 0, end = 0;  // of the tag's opening
    char sign = 0;
  };

  std::string_view rest() const { return std::string_view(text_).substr(pos_); }
  bool at(std::string_view what) const { return rest().starts_with(what); }
  char peek(std::size_t ahead = 0) const {
    return pos_ + ahead < text_.size() ? text_[pos_ + ahead] : '\0';
  }
  std::size_t past_space(std::size_t from) const;
  void advance(std::size_t to);
  void emit(TokenType type, std::string text = {});
  void fail_here(std::string message) const {
    fail(Code::invalid_argument, std::move(message), line_);
  }

  Opening find_opening() const;
  Opening raw_opening(std::size_t begin) const;
  void data(std::string_view text, char sign, bool trims_line);
  void comment();
  void raw();
  std::size_t tag_end(std::string_view close, std::size_t from, bool trims_newline) const;
  void tag(Tag tag);
  bool close_tag(Tag tag);
  void expression_token();
  void number();
  bool real_number();
  void string();
  void name();
  void op();
  void balance(char c);

  std::string text_;
  std::size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<char> open_;  // the closing brackets that are due
  std::vector<Token> tokens_;
};

std::size_t Lexer::past_space(std::size_t from) const {
  while (from < text_.size()) {
    std::size_t next = from;
    if (!is_space(next_point(text_, next))) break;
    from = next;
  }
  return from;
}

/// Moves behind what was read, counting its lines.
void Lexer::advance(std::size_t to) {
  const auto begin = text_.begin() + static_cast<std::ptrdiff_t>(pos_);
  const auto end = text_.begin() + static_cast<std::ptrdiff_t>(to);
  line_ += static_cast<int>(std::count(begin, end, '\n'));
  if (to > pos_) line_starting_ = text_[to - 1] == '\n';
  pos_ = to;
}

void Lexer::emit(TokenType type, std::string text) {
  tokens_.push_back({type, std::move(text), {}, line_});
}

Lexer::Opening Lexer::raw_opening(std::size_t begin) const {
  Opening raw{Tag::raw, begin, begin + 2, 0};
  if (raw.end < text_.size() && (text_[raw.end] == '-' || text_[raw.end] == '+'))
    raw.sign = text_[raw.end++];
  std::size_t p = past_space(raw.end);
  if (text_.compare(p, 3, "raw") != 0) return {};
  p = past_space(p + 3);
  if (text_.compare(p, 3, "-%}") == 0) {
    raw.end = past_space(p + 3);
    return raw;
  }
  if (text_.compare(p, 2, "%}") != 0) return {};
  raw.end = p + 2;
  return raw;
}

Lexer::Opening Lexer::find_opening() const {
  for (std::size_t p = text_.find('{', pos_); p != kNone && p + 1 < text_.size();
       p = text_.find('{', p + 1)) {
    const char kind = text_[p + 1];
    if (kind != '#' && kind != '%' && kind != '{') continue;
    if (kind == '%')
      if (const Opening raw = raw_opening(p); raw.tag == Tag::raw) return raw;
    Opening found{kind == '#'   ? Tag::comment
                  : kind == '%' ? Tag::block
                                : Tag::variable,
                  p, p + 2, 0};
    if (p + 2 < text_.size() && (text_[p + 2] == '-' || text_[p + 2] == '+')) {
      found.sign = text_[p + 2];
      ++found.end;
    }
    return found;
  }
  return {Tag::none, text_.size(), text_.size(), '+'};
}

/// Text up to a tag; `trims_line`: white space alone before it on its line goes too.
void Lexer::data(std::string_view text, char sign, bool trims_line) {
  if (sign == '-') {
    text = strip(text, Side::right);
  } else if (sign != '+' && trims_line) {
    const std::size_t line = text.rfind('\n') + 1;  // npos + 1 is 0
    if ((line > 0 || line_starting_) && strip(text.substr(line), Side::both).empty())
      text = text.substr(0, line);
  }
  if (!text.empty()) emit(TokenType::data, std::string(text));
}

/// Behind "-}" and its white space, "+}" or "}" and its newline; npos if `close` is not there.
std::size_t Lexer::tag_end(std::string_view close, std::size_t from, bool trims_newline) const {
  const char sign = from < text_.size() ? text_[from] : '\0';
  const bool plus = trims_newline && sign == '+';
  const std::size_t at = from + (sign == '-' || plus ? 1 : 0);
  if (text_.compare(std::min(at, text_.size()), close.size(), close) != 0) return kNone;
  std::size_t end = at + close.size();
  if (sign == '-') return past_space(end);
  if (!plus && trims_newline && end < text_.size() && text_[end] == '\n') ++end;
  return end;
}

void Lexer::comment() {
  for (std::size_t p = pos_; p < text_.size(); ++p) {
    if (text_[p] != '#' && text_[p] != '-' && text_[p] != '+') continue;
    if (const std::size_t end = tag_end("#}", p, true); end != kNone) return advance(end);
  }
  fail_here("missing end of comment tag '#}'");
}

void Lexer::raw() {
  for (std::size_t p = text_.find("{%", pos_); p != kNone; p = text_.find("{%", p + 1)) {
    std::size_t q = p + 2;
    const char sign = q < text_.size() && (text_[q] == '-' || text_[q] == '+') ? text_[q++] : '\0';
    q = past_space(q);
    if (text_.compare(q, 6, "endraw") != 0) continue;
    const std::size_t end = tag_end("%}", past_space(q + 6), true);
    if (end == kNone) continue;
    data(std::string_view(text_).substr(pos_, p - pos_), sign, true);
    return advance(end);
  }
  fail_here("missing end of raw directive '{% endraw %}'");
}

bool Lexer::close_tag(Tag tag) {
  if (!open_.empty()) return false;
  const bool block = tag == Tag::block;
  const std::size_t end = tag_end(block ? "%}" : "}}", pos_, block);
  if (end == kNone) return false;
  emit(block ? TokenType::block_end : TokenType::variable_end);
  advance(end);
  return true;
}

void Lexer::tag(Tag tag) {
  emit(tag == Tag::block ? TokenType::block_begin : TokenType::variable_begin);
  while (true) {
    if (close_tag(tag)) return;
    if (pos_ >= text_.size()) return;  // the parser says what is missing
    expression_token();
  }
}

void Lexer::expression_token() {
  std::size_t next = pos_;
  const char32_t c = next_point(text_, next);
  if (is_space(c)) return advance(past_space(pos_));
  if (is_ascii_digit(peek())) return number();
  if (c == '"' || c == '\'') return string();
  if (c == '_' || is_alpha(c)) return name();
  op();
}

/// Digits with single underscores between them; where they end.
std::size_t digits_end(std::string_view text, std::size_t from) {
  std::size_t p = from;
  while (p < text.size() &&
         (is_ascii_digit(text[p]) || (text[p] == '_' && p > from && is_ascii_digit(text[p - 1]) &&
                                      p + 1 < text.size() && is_ascii_digit(text[p + 1]))))
    ++p;
  return p;
}

bool Lexer::real_number() {
  if (pos_ > 0 && text_[pos_ - 1] == '.') return false;
  std::size_t p = digits_end(text_, pos_);
  bool real = false;
  if (p + 1 < text_.size() && text_[p] == '.' && is_ascii_digit(text_[p + 1])) {
    p = digits_end(text_, p + 1);
    real = true;
  }
  if (p < text_.size() && (text_[p] == 'e' || text_[p] == 'E')) {
    const std::size_t sign = p + 1;
    const std::size_t first =
        sign < text_.size() && (text_[sign] == '+' || text_[sign] == '-') ? sign + 1 : sign;
    if (first < text_.size() && is_ascii_digit(text_[first])) {
      p = digits_end(text_, first);
      real = true;
    }
  }
  if (!real) return false;
  std::string digits = text_.substr(pos_, p - pos_);
  std::erase(digits, '_');
  double value = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (read.ec != std::errc()) fail_here("the number " + digits + " is out of range");
  emit(TokenType::real, digits);
  tokens_.back().number = Value(value);
  advance(p);
  return true;
}

void Lexer::number() {
  if (real_number()) return;
  const char mark = peek() == '0' ? static_cast<char>(peek(1) | 0x20) : '\0';
  const int base = mark == 'b' ? 2 : mark == 'o' ? 8 : mark == 'x' ? 16 : 10;
  const auto digit = [base](char c) {
    const int value = is_ascii_digit(c)                        ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                               : 99;
    return value < base ? value : -1;
  };
  std::size_t p = pos_;
  const auto is_next = [&](std::size_t q) { return q < text_.size() && digit(text_[q]) >= 0; };
  const bool prefixed = base != 10 && (is_next(p + 2) || (peek(2) == '_' && is_next(p + 3)));
  if (prefixed) p += 2;
  const bool zeros = !prefixed && peek() == '0';  // 012 is 0 and then 12
  Int value = 0;
  while (is_next(p) || (p < text_.size() && text_[p] == '_' && p > pos_ && is_next(p + 1))) {
    if (text_[p] != '_') {
      const int d = prefixed || base == 10 ? digit(text_[p]) : text_[p] - '0';
      if (zeros && d != 0) break;
      if (__builtin_mul_overflow(value, Int{prefixed ? base : 10}, &value) ||
          __builtin_add_overflow(value, Int{d}, &value))
        fail(Code::out_of_range, "an integer has more than 127 bits", line_);
    }
    ++p;
  }
  emit(TokenType::integer, text_.substr(pos_, p - pos_));
  tokens_.back().number = Value(value);
  advance(p);
}

void Lexer::string() {
  const char quote = peek();
  std::size_t p = pos_ + 1;
  while (p < text_.size() && text_[p] != quote) p += text_[p] == '\\' ? 2 : 1;
  if (p >= text_.size()) fail_here(fmt::format("a string that starts with {} has no end", quote));
  emit(TokenType::string,
       unescape_literal(std::string_view(text_).substr(pos_ + 1, p - pos_ - 1), line_));
  advance(p + 1);
}

void Lexer::name() {
  std::size_t p = pos_;
  while (p < text_.size()) {
    std::size_t next = p;
    const char32_t c = next_point(text_, next);
    if (c != '_' && !is_alpha(c) && !is_decimal(c)) break;
    p = next;
  }
  emit(TokenType::name, text_.substr(pos_, p - pos_));
  advance(p);
}

void Lexer::balance(char c) {
  if (c == '(') open_.push_back(')');
  if (c == '[') open_.push_back(']');
  if (c == '{') open_.push_back('}');
  if (c != ')' && c != ']' && c != '}') return;
  if (open_.empty()) fail_here(fmt::format("unexpected '{}'", c));
  const char due = open_.back();
  open_.pop_back();
  if (due != c) fail_here(fmt::format("unexpected '{}', expected '{}'", c, due));
}

void Lexer::op() {
  static constexpr std::string_view kPairs[] = {"//", "**", "==", "!=", ">=", "<="};
  static constexpr std::string_view kSingles = "+-/*%~[](){}><=.:|,;";
  for (const std::string_view pair : kPairs)
    if (at(pair)) {
      emit(TokenType::op, std::string(pair));
      return advance(pos_ + 2);
    }
  if (kSingles.find(peek()) == kNone || peek() == '\0') {
    std::size_t next = pos_;
    next_point(text_, next);
    fail_here(fmt::format("unexpected character '{}'", text_.substr(pos_, next - pos_)));
  }
  balance(peek());
  emit(TokenType::op, std::string(1, peek()));
  advance(pos_ + 1);
}

std::vector<Token> Lexer::run() {
  while (pos_ < text_.size()) {
    const Opening next = find_opening();
    data(rest().substr(0, next.at - pos_), next.sign,
         next.tag != Tag::variable && next.tag != Tag::none);
    advance(next.end);
    if (next.tag == Tag::comment) comment();
    if (next.tag == Tag::raw) raw();
    if (next.tag == Tag::block || next.tag == Tag::variable) tag(next.tag);
  }
  emit(TokenType::end);
  return std::move(tokens_);
}

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

std::string describe(const Token& token) {
  switch (token.type) {
    case TokenType::data: return "template data";
    case TokenType::variable_begin: return "start of print statement";
    case TokenType::variable_end: return "end of print statement";
    case TokenType::block_begin: return "start of statement block";
    case TokenType::block_end: return "end of statement block";
    case TokenType::name: return fmt::format("name '{}'", token.text);
    case TokenType::string: return fmt::format("string '{:.40}'", token.text);
    case TokenType::integer:
    case TokenType::real: return fmt::format("number {:.40}", token.text);
    case TokenType::op: return fmt::format("'{}'", token.text);
    case TokenType::end: return "end of template";
  }
  return "token";
}

}  // namespace herd::chat
