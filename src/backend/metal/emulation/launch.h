// Kernels by name, and one dispatch of a kernel as plain data.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/metal/emulation/group.h"

namespace herd::metal::emulation {

struct Size3 {
  std::uint32_t x = 1, y = 1, z = 1;
};

inline constexpr std::size_t kBuffers = 31;      // argument table of a kernel
inline constexpr std::size_t kMostBytes = 4096;  // of setBytes

/// Memory bound to an index: from setBuffer or setBytes.
struct Binding {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

enum class Builtin {
  none,
  threadgroup_position_in_grid,
  thread_position_in_grid,
  thread_position_in_threadgroup,
  thread_index_in_threadgroup,
  thread_index_in_simdgroup,
  simdgroup_index_in_threadgroup,
  simdgroups_per_threadgroup,
  threads_per_threadgroup,
  threadgroups_per_grid,
};

/// One parameter of a kernel, as its attribute says: a buffer index or a builtin.
struct Parameter {
  Builtin builtin = Builtin::none;
  std::size_t buffer = 0;
};

class Arguments;

/// A kernel as the compiler registered it.
struct KernelEntry {
  const char* name;      // what the host asks for
  const char* function;  // what the source calls it
  void (*call)(const Arguments& arguments);
  std::size_t arity;
};
/// Null if there is none.
const KernelEntry* find_kernel(std::string_view name);

/// The parameters of `kernel void function(...)` in a library's source. `error` says what is wrong.
std::vector<Parameter> reflect(std::string_view source, std::string_view function,
                               std::string& error);

/// In which order threads that could all go on do so.
struct Order {
  enum Kind { forward, reverse, random } kind = forward;
  std::uint64_t seed = 1;
};

struct Launch {
  const KernelEntry* kernel = nullptr;
  const std::vector<Parameter>* parameters = nullptr;
  std::array<Binding, kBuffers> bindings;
  Size3 groups, threads;
};

/// Runs all threadgroups. Returns "" or the first error, naming the kernel.
std::string run(const Launch& launch, const Order& order);

/// The arguments of the thread that runs.
class Arguments {
 public:
  Arguments(const Launch& launch) : launch_(launch) {}  // NOLINT: made on the spot
  std::byte* buffer(std::size_t parameter, std::size_t least) const;
  Size3 builtin(std::size_t parameter) const;

 private:
  const Launch& launch_;
};

}  // namespace herd::metal::emulation
