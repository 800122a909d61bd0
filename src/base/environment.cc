#include "base/environment.h"

#include <cstdlib>

namespace herd {

bool environment_flag(const char* name) {
  const std::string value = environment_text(name);
  return !value.empty() && value != "0";
}

std::string environment_text(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace herd
