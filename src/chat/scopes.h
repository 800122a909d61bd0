// Which names a scope hides from its beginning. Jinja decides at compile time where a name lives: a
// name that a scope sets before it reads it, and that no scope around it knows, belongs to that
// scope and is undefined until it is set, even where the render has a variable of that name.
#pragma once

#include "chat/ast.h"

namespace herd::chat {

/// Fills `unset` of the program and its statements.
void find_unset_names(Program& program);

}  // namespace herd::chat
