// Stands in where this build has no cuda backend.
#include <fmt/format.h>

#include "backend/backend.h"
#include "herd/ceilings.h"

namespace herd {

Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendOptions& options) {
  return Error{Code::unsupported, fmt::format("device {}: this build has cpu and reference only",
                                              to_string(options.device))};
}

Result<MeasuredCeilings> measure_cuda_ceilings() {
  return Error{Code::unsupported, "device cuda: this build has none"};
}

}  // namespace herd
