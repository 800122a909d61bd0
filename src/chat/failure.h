// How a template's failure leaves the interpreter. Inside this room it is thrown, since every
// operator, filter and method can fail at any depth; ChatTemplate::parse and render catch it, so no
// exception crosses a public function.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "herd/status.h"

namespace herd::chat {

struct Failure {
  Error error;
  int line = 0;  // 0: where the interpreter stands
};

[[noreturn]] inline void fail(Code code, std::string message, int line = 0) {
  throw Failure{Error{code, std::move(message)}, line};
}

/// What the template did wrong: an operand, an argument, an undefined value.
template <class... A>
[[noreturn]] void wrong(fmt::format_string<A...> form, A&&... arguments) {
  fail(Code::invalid_argument, fmt::format(form, std::forward<A>(arguments)...));
}

}  // namespace herd::chat
