// Stands in where this build has no metal backend.
#include <fmt/format.h>

#include "backend/backend.h"

namespace herd {

Result<std::unique_ptr<Backend>> make_metal_backend(const BackendOptions& options) {
  if (options.device == DeviceType::metal)
    return Error{Code::unsupported, "device metal: needs macOS; this build has no Metal backend"};
  return Error{Code::unsupported,
               fmt::format("device {}: this build has no Metal emulator; on x86-64 Linux run "
                           "scripts/fetch-metal-cpp, then configure and build again",
                           to_string(options.device))};
}

}  // namespace herd
