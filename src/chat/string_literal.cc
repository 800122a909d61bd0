#include "chat/string_literal.h"

#include "chat/failure.h"
#include "chat/text.h"
#include "token/utf8.h"

namespace herd::chat {
namespace {

int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int letter = c | 0x20;
  return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

class Reader {
 public:
  Reader(std::string_view text, int line) : text_(text), line_(line) {}

  std::string run() {
    while (at_ < text_.size()) {
      if (text_[at_] != '\\' || at_ + 1 >= text_.size())
        out_ += text_[at_++];
      else
        escape();
    }
    return std::move(out_);
  }

 private:
  void escape() {
    const char c = text_[++at_];
    static constexpr std::string_view kFrom = "abfnrtv\\'\"", kTo = "\a\b\f\n\r\t\v\\'\"";
    if (const std::size_t i = kFrom.find(c); i != kFrom.npos) {
      ++at_;
      out_ += kTo[i];
    } else if (c == '\n') {
      ++at_;  // the line goes on
    } else if (c >= '0' && c <= '7') {
      octal();
    } else if (c == 'x' || c == 'u' || c == 'U') {
      ++at_;
      digits(c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c == 'N') {
      fail(Code::unsupported, "a \\N{...} escape in a string", line_);
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      spelt_out();
    } else {
      out_ += '\\';
    }
  }

  void octal() {
    unsigned value = 0;
    for (int n = 0; n < 3 && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '7'; ++n)
      value = value * 8 + static_cast<unsigned>(text_[at_++] - '0');
    utf8::append(out_, value);
  }

  void digits(int count) {
    std::uint32_t value = 0;
    for (int n = 0; n < count; ++n) {
      const int digit = at_ < text_.size() ? hex(text_[at_]) : -1;
      if (digit < 0) fail(Code::invalid_argument, "a string has a truncated \\ escape", line_);
      value = value * 16 + static_cast<std::uint32_t>(digit);
      ++at_;
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
      fail(Code::invalid_argument,
           fmt::format("a string escape names U+{:04X}, which is no character", value), line_);
    utf8::append(out_, value);
  }

  /// Python reads a backslash before a character beyond ASCII as the escape of an escape.
  void spelt_out() {
    const auto value = static_cast<std::uint32_t>(next_point(text_, at_));
    out_ += value < 0x100     ? fmt::format("\\x{:02x}", value)
            : value < 0x10000 ? fmt::format("\\u{:04x}", value)
                              : fmt::format("\\U{:08x}", value);
  }

  std::string_view text_;
  int line_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string unescape_literal(std::string_view text, int line) {
  return Reader(text, line).run();
}

}  // namespace herd::chat
