// The one place that reads the environment. Names are listed in docs/environment.md.
#pragma once

#include <string>

namespace herd {

/// Whether the variable is set to anything but "" and "0".
bool environment_flag(const char* name);
/// The variable, or "".
std::string environment_text(const char* name);

}  // namespace herd
