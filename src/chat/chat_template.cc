// The public door: nothing thrown inside gets past it.
#include "herd/chat.h"

#include <fmt/format.h>

#include <new>

#include "chat/failure.h"
#include "chat/interpreter.h"
#include "chat/lexer.h"
#include "chat/parser.h"
#include "chat/text.h"
#include "token/utf8.h"

namespace herd {
namespace {

/// Messages quote templates, values and what raise_exception says: one line, of whole characters,
/// that no terminal obeys.
std::string one_line(std::string_view text) {
  constexpr std::size_t kLongest = 2000;
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    if (out.size() > kLongest) return out + "...";
    const utf8::CodePoint point = utf8::decode(text, at);
    const bool control = point.value < 0x20 || (point.value >= 0x7f && point.value < 0xa0) ||
                         point.value == 0x2028 || point.value == 0x2029;
    if (point.value == '\n')
      out += "\\n";
    else if (control || !point.valid)
      for (const char c : text.substr(at, point.bytes))
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      out += text.substr(at, point.bytes);
    at += point.bytes;
  }
  return out;
}

Error with_line(const chat::Failure& failure, int line) {
  if (failure.line > 0) line = failure.line;
  const std::string message = one_line(failure.error.message);
  if (line <= 0) return {failure.error.code, message};
  return {failure.error.code, fmt::format("chat template, line {}: {}", line, message)};
}
Error out_of_memory() {
  return {Code::resource_exhausted, "chat template: no memory left"};
}

}  // namespace

ChatTemplate::ChatTemplate(std::shared_ptr<const chat::Program> program)
    : program_(std::move(program)) {}

Result<ChatTemplate> ChatTemplate::parse(std::string_view text, const ChatLimits& limits) {
  if (text.size() > limits.template_bytes)
    return Error{Code::resource_exhausted, fmt::format("chat template of {} bytes; the limit is {}",
                                                       text.size(), limits.template_bytes)};
  if (!chat::valid_utf8(text))
    return Error{Code::invalid_argument, "chat template: not valid UTF-8"};
  try {
    chat::Parser parser(chat::tokenize(text), limits);
    return ChatTemplate(std::make_shared<const chat::Program>(parser.run()));
  } catch (const chat::Failure& failure) {
    return with_line(failure, 0);
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

Result<std::string> ChatTemplate::render(std::string_view variables,
                                         const ChatLimits& limits) const {
  try {
    chat::Interpreter walk(*program_, limits);
    try {
      return walk.run(variables);
    } catch (const chat::Failure& failure) {
      return with_line(failure, walk.line());
    }
  } catch (const chat::Failure& failure) {
    return with_line(failure, 0);
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

}  // namespace herd
