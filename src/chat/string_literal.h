// The escapes of a string literal in a template, which are Python's.
#pragma once

#include <string>
#include <string_view>

namespace herd::chat {

/// Fails with invalid_argument on a cut or impossible escape.
std::string unescape_literal(std::string_view text, int line);

}  // namespace herd::chat
