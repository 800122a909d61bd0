#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>

#include "base/checked.h"

namespace herd {
namespace {

Error system_error(const std::string& path, const char* what, int number) {
  const Code code = number == ENOENT || number == ENOTDIR ? Code::not_found : Code::io;
  return {code, fmt::format("{}: {}: {}", path, what, std::generic_category().message(number))};
}

}  // namespace

Result<ReadFile> ReadFile::open(const std::string& path) {
  int descriptor = -1;
  do {  // not blocking, so that a pipe in the file's place cannot hang the open
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) return system_error(path, "cannot open", errno);
  ReadFile file(path, descriptor, 0);
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) return system_error(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) return Error{Code::io, path + ": not a regular file"};
  file.size_ = static_cast<std::uint64_t>(info.st_size);
  return file;
}

ReadFile::ReadFile(std::string path, int descriptor, std::uint64_t size)
    : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

ReadFile::ReadFile(ReadFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

ReadFile& ReadFile::operator=(ReadFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

ReadFile::~ReadFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status ReadFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  const ByteSize end = ByteSize(offset) + ByteSize(out.size());
  if (!end.within(static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())))
    return Error{Code::io,
                 fmt::format("{}: {} bytes at {} are beyond any file", path_, out.size(), offset)};
  while (!out.empty()) {
    // One call moves less than 2 GiB on some systems.
    const std::size_t wanted = std::min<std::size_t>(out.size(), std::size_t{1} << 30);
    const ssize_t got = ::pread(descriptor_, out.data(), wanted, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(path_, "cannot read", errno);
    if (got == 0)
      return Error{Code::io,
                   fmt::format("{}: the file ends at byte {}, {} more bytes were wanted; it "
                               "had {} bytes when opened",
                               path_, offset, out.size(), size_)};
    out = out.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

Result<std::shared_ptr<const FileMapping>> ReadFile::map() const {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const ByteSize pages = ByteSize(size_) + ByteSize(page - 1);
  if (size_ == 0 || !pages.within(std::numeric_limits<std::size_t>::max()))
    return Error{Code::io, fmt::format("{}: {} bytes cannot be mapped", path_, size_)};
  const auto bytes = static_cast<std::size_t>(pages.value() / page * page);
  void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (data == MAP_FAILED) return system_error(path_, "cannot map", errno);
  return std::make_shared<const FileMapping>(static_cast<const std::byte*>(data), bytes);
}

FileMapping::~FileMapping() {
  ::munmap(const_cast<std::byte*>(data_), bytes_);
}

}  // namespace herd
