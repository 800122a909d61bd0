// The .metal files compiled as C++: one table of kernels, as one library holds them on a GPU.
#include <metal_stdlib>
// first: it ends with macros for Metal's keywords

#include "backend/metal/kernels/args.h"
#include "backend/metal/kernels/dialect.h"

namespace {
#include "backend/metal/kernels/attention.metal"
#include "backend/metal/kernels/checksum.metal"
#include "backend/metal/kernels/matmul.metal"
#include "backend/metal/kernels/norm.metal"
#include "backend/metal/kernels/rope.metal"
#include "backend/metal/kernels/sample.metal"
#include "backend/metal/kernels/stages.metal"
}  // namespace

namespace herd::metal::emulation {
namespace {

/// Filled before main() by the registrations above.
std::vector<KernelEntry>& entries() {
  static std::vector<KernelEntry> all;
  return all;
}

}  // namespace

void register_kernel(const KernelEntry& entry) {
  entries().push_back(entry);
}

const KernelEntry* find_kernel(std::string_view name) {
  for (const KernelEntry& entry : entries())
    if (name == entry.name) return &entry;
  return nullptr;
}

}  // namespace herd::metal::emulation
