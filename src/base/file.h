// A read-only file, read by position: one that shrinks is an error. Mapped for devices that use
// files in place alone: there one that shrinks is a signal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "herd/status.h"

namespace herd {

/// A file's bytes as memory that nobody writes: whole pages, zeros behind the file's end. REQUIRES:
/// the file stays as it is meanwhile; to touch what was cut off ends the program.
class FileMapping {
 public:
  FileMapping(const std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  ~FileMapping();
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;

  const std::byte* data() const { return data_; }  // aligned to a page
  std::size_t bytes() const { return bytes_; }     // whole pages

 private:
  const std::byte* data_;
  std::size_t bytes_;
};

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
  /// The whole file as memory, which may outlive this. Errors: io (empty, no address space).
  Result<std::shared_ptr<const FileMapping>> map() const;

 private:
  ReadFile(std::string path, int descriptor, std::uint64_t size);
  std::string path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace herd
