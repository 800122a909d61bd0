// str.format.
#pragma once

#include <string>
#include <string_view>

#include "chat/interpreter.h"

namespace herd::chat {

/// `form` with its {fields} filled from the arguments.
std::string format_text(Interpreter& walk, std::string_view form, const Arguments& arguments);

/// Every `from` (at most `most`, if not negative) becomes `to`.
std::string replace_text(Heap& heap, std::string_view text, std::string_view from,
                         std::string_view to, Int most);

}  // namespace herd::chat
