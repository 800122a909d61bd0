// A read-only file, read by position. Never mapped: a file that shrinks is an error, not a signal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "herd/status.h"

namespace herd {

/// An open file. Movable; read_at may be called from any thread.
class ReadFile {
 public:
  /// Errors: not_found (no such file), io (not a regular file, no permission), naming the path.
  static Result<ReadFile> open(const std::string& path);
  ReadFile(ReadFile&& other) noexcept;
  ReadFile& operator=(ReadFile&& other) noexcept;
  ~ReadFile();

  const std::string& path() const { return path_; }
  /// Bytes when it was opened.
  std::uint64_t size() const { return size_; }
  /// Fills `out` from `offset`. Errors: io (the file ends before, or a failed read).
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  ReadFile(std::string path, int descriptor, std::uint64_t size);
  std::string path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace herd
