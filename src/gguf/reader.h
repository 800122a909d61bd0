// The two guards of the parser: a cursor that cannot leave the file, and a memory budget.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/checked.h"
#include "gguf/gguf.h"

namespace herd::gguf {
static_assert(std::endian::native == std::endian::little, "GGUF is read as it stands in memory");

/// "name" in quotes, unprintable bytes escaped, long names cut: for messages.
std::string quoted(std::string_view name);

/// Bytes the parsed file may take: what the files hold, and 64 MiB.
class Budget {
 public:
  static constexpr std::uint64_t kExtra = 64ull << 20;
  static constexpr std::uint64_t kReserve = 1ull << 20;  // for windows, messages and the like

  void allow(std::uint64_t file_bytes) { limit_ = limit_ + ByteSize(file_bytes); }
  std::uint64_t limit() const { return limit_.ok() ? limit_.value() : ~std::uint64_t{0}; }
  /// False, and nothing is charged, if `bytes` more would pass the limit.
  bool charge(ByteSize bytes);
  /// Gives back what was charged and has been freed since.
  void release(std::uint64_t bytes) { used_ -= bytes; }
  std::uint64_t used() const { return used_; }

 private:
  ByteSize limit_ = kExtra - kReserve;
  std::uint64_t used_ = 0;
};

/// Reads forward through one file. Every read is checked against the bytes left; the first failure
/// of the source itself is kept.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : window_(bytes), size_(bytes.size()) {}
  /// Reads through a small window. `source` must outlive the Reader.
  Reader(const Source& source, std::int32_t part, std::uint64_t size);

  std::uint64_t size() const { return size_; }
  std::uint64_t offset() const { return window_start_ + position_; }
  std::uint64_t remaining() const { return size_ - offset(); }

  /// False if fewer bytes are left, or the source failed.
  bool read(std::span<std::byte> out) {
    if (out.size() > window_.size() - position_) return read_beyond(out);
    copy(out);
    return true;
  }
  template <class T>
  bool get(T& value) {
    return read(std::as_writable_bytes(std::span<T, 1>(&value, 1)));
  }
  /// The source's own error, if that is why a read failed.
  const Status& source_status() const { return source_status_; }

 private:
  void copy(std::span<std::byte> out);
  bool read_beyond(std::span<std::byte> out);
  bool refill(std::size_t wanted);

  const Source* source_ = nullptr;
  std::int32_t part_ = 0;
  std::vector<std::byte> buffer_;
  std::span<const std::byte> window_;
  std::uint64_t window_start_ = 0;  // of the window in the file
  std::size_t position_ = 0;        // in the window
  std::uint64_t size_ = 0;
  Status source_status_;
};

}  // namespace herd::gguf
