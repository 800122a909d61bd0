// Prints what kernel_library() holds.
#include <cstddef>
#include <cstdio>
#include <span>

namespace herd::metal {
std::span<const std::byte> kernel_library();
}

int main() {
  const auto bytes = herd::metal::kernel_library();
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
}
