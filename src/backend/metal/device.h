// The seam to Metal: what the backend asks of a GPU, in about ten calls. device.cc is the one file
// that sees Apple's metal-cpp. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "herd/status.h"

namespace herd::metal {

/// Memory that host and GPU share.
struct Buffer {
  void* handle = nullptr;
  std::byte* data = nullptr;
  std::int64_t bytes = 0;
};

/// A compiled kernel and the most threads its threadgroups may have.
struct Kernel {
  void* handle = nullptr;
  std::uint32_t max_threads = 0;
};

struct Size {
  std::uint32_t x = 1, y = 1;
};

class Device {
 public:
  /// Takes the kernels from `library`, a metallib, or if that is empty compiles `source`, all
  /// kernels in one text. Errors: unsupported (no Metal device; naming what Metal says).
  static Result<std::unique_ptr<Device>> open(std::string_view source,
                                              std::span<const std::byte> library = {});
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  std::string name() const;
  /// What the system recommends to keep within; 0 if it does not say.
  std::int64_t memory() const;

  /// `data` is null when memory is out. Contents are undefined.
  Buffer allocate(std::int64_t bytes);
  /// Memory that is somebody else's, without a copy; it must outlive the buffer, and no kernel may
  /// write it. `data` is null where Metal does not take it: more than it allows, not whole pages.
  Buffer wrap(const std::byte* data, std::int64_t bytes);
  void release(const Buffer& buffer);
  /// Errors: internal, naming the kernel.
  Result<Kernel> kernel(const std::string& name);

  // ---- commands, collected into one command buffer until commit() ----
  void bind(std::uint32_t index, const Buffer& buffer, std::int64_t offset);
  void bind_bytes(std::uint32_t index, const void* bytes, std::size_t count);
  /// Runs after all dispatches before it.
  void dispatch(const Kernel& kernel, Size groups, std::uint32_t threads);
  /// Sends what was collected; returns the number to wait for. Nothing collected: the last one's.
  std::uint64_t commit();
  /// Waits for all command buffers up to `number`. Errors: internal, with Metal's message.
  Status wait(std::uint64_t number);
  /// What the GPU spent on the command buffers waited for so far.
  double gpu_seconds() const;

 private:
  struct Impl;
  explicit Device(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace herd::metal
