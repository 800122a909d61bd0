#include "base/environment.h"

#include <cstdlib>
#include <string_view>

namespace herd {

bool environment_flag(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && std::string_view(value) != "" && std::string_view(value) != "0";
}

}  // namespace herd
