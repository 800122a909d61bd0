// This program holds the reference and the metal backend, so that sanitizers need not build the
// rest.
#include "backend/backend.h"

namespace herd {

Result<std::unique_ptr<Backend>> make_cpu_backend(const BackendOptions&) {
  return Error{Code::unsupported, "device cpu: not in this program"};
}

}  // namespace herd
