#include "herd/status.h"

#include "herd/types.h"

namespace herd {

std::string_view to_string(Code code) {
  switch (code) {
    case Code::invalid_argument: return "invalid argument";
    case Code::not_found: return "not found";
    case Code::out_of_range: return "out of range";
    case Code::unsupported: return "unsupported";
    case Code::corrupt: return "corrupt";
    case Code::resource_exhausted: return "resource exhausted";
    case Code::io: return "input/output";
    case Code::cancelled: return "cancelled";
    case Code::internal: return "internal";
  }
  return "unknown";
}

std::string_view to_string(DeviceType device) {
  switch (device) {
    case DeviceType::cpu: return "cpu";
    case DeviceType::reference: return "reference";
    case DeviceType::cuda: return "cuda";
    case DeviceType::metal: return "metal";
    case DeviceType::metal_emulated: return "metal-emulated";
  }
  return "unknown";
}

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::automatic: return "automatic";
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avxvnni: return "avxvnni";
    case Isa::avx512: return "avx512";
    case Isa::neon: return "neon";
    case Isa::neondot: return "neondot";
  }
  return "unknown";
}

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::none: return "none";
    case FinishReason::length: return "length";
    case FinishReason::stop: return "stop";
    case FinishReason::error: return "error";
    case FinishReason::cancelled: return "cancelled";
  }
  return "unknown";
}

}  // namespace herd
