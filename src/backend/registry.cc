#include <fmt/format.h>

#include "backend/backend.h"

namespace herd {

Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options) {
  const bool metal =
      options.device == DeviceType::metal || options.device == DeviceType::metal_emulated;
  if (options.profile && !metal)
    return Error{Code::unsupported,
                 fmt::format("device {}: times by op are kept on metal and metal-emulated only",
                             to_string(options.device))};
  switch (options.device) {
    case DeviceType::cpu: return make_cpu_backend(options);
    case DeviceType::reference: return make_reference_backend(options);
    case DeviceType::cuda: return make_cuda_backend(options);
    case DeviceType::metal:
    case DeviceType::metal_emulated: return make_metal_backend(options);
  }
  return Error{Code::invalid_argument, "device: unknown"};
}

}  // namespace herd
