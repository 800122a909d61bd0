// Where the bytes come from: memory, one file, or the parts of a split file.
#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "base/file.h"
#include "gguf/parser.h"

namespace herd::gguf {
namespace {

constexpr std::int64_t kMaxParts = 65535;  // what split.count holds

class MemorySource final : public Source {
 public:
  explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Status read(std::int32_t part, std::uint64_t offset, std::span<std::byte> out) const override {
    if (part != 0 || !(ByteSize(offset) + ByteSize(out.size())).within(bytes_.size()))
      return Error{Code::io, fmt::format("{} bytes at {} of part {} are outside the {} in memory",
                                         out.size(), offset, part, bytes_.size())};
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  Result<std::shared_ptr<const FileMapping>> map(std::int32_t) const override {
    return Error{Code::unsupported, "parsed from memory: there is no file to map"};
  }

 private:
  std::span<const std::byte> bytes_;
};

class FileSource final : public Source {
 public:
  std::vector<ReadFile> files;
  Status read(std::int32_t part, std::uint64_t offset, std::span<std::byte> out) const override {
    if (part < 0 || static_cast<std::size_t>(part) >= files.size())
      return Error{Code::io, fmt::format("part {} of {} files", part, files.size())};
    return files[static_cast<std::size_t>(part)].read_at(offset, out);
  }
  Result<std::shared_ptr<const FileMapping>> map(std::int32_t part) const override {
    return files.at(static_cast<std::size_t>(part)).map();
  }
};

/// "<stem>-00002-of-00003.gguf" taken apart.
struct SplitName {
  std::string stem;
  std::int64_t number = 0;  // from 1
  std::int64_t count = 0;

  std::string path(std::int64_t index) const {
    return fmt::format("{}-{:05}-of-{:05}.gguf", stem, index, count);
  }
};

/// The name's parts; count 0 if `path` is not named as a split.
SplitName split_name(const std::string& path) {
  constexpr std::string_view kPattern = "-00001-of-00001.gguf";
  SplitName name;
  if (path.size() <= kPattern.size()) return name;
  const std::size_t start = path.size() - kPattern.size();
  const std::string_view tail = std::string_view(path).substr(start);
  auto number = [&](std::size_t at) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(tail.data() + at, tail.data() + at + 5, value);
    return error == std::errc{} && end == tail.data() + at + 5 && value > 0 ? value : 0;
  };
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf") return name;
  if (number(1) == 0 || number(10) == 0) return name;
  return {path.substr(0, start), number(1), number(10)};
}

Error at_path(const std::string& path, Error error) {
  if (!error.message.starts_with(path + ": ")) error.message = path + ": " + error.message;
  return error;
}

/// A key that only split files have: 0 if absent.
Result<std::int64_t> split_value(const File& file, std::string_view key, std::int64_t max) {
  if (file.find(key) == nullptr) return std::int64_t{0};
  return file.get_int(key, 0, max);
}

Status want_value(const File& file, const std::string& path, std::string_view key,
                  std::int64_t wanted, std::int64_t max) {
  const Result<std::int64_t> found = split_value(file, key, max);
  if (!found) return at_path(path, found.error());
  if (file.find(key) == nullptr)
    return Error{Code::corrupt,
                 fmt::format("{}: key {} is absent, wanted {}", path, quoted(key), wanted)};
  if (*found == wanted) return {};
  return Error{Code::corrupt,
               fmt::format("{}: key {} is {}, wanted {}", path, quoted(key), *found, wanted)};
}

/// Opens one part and parses it into `file`.
Status add_part(const std::string& path, FileSource& source, Budget& budget, File& file,
                std::uint64_t* metadata_bytes) {
  Result<ReadFile> opened = ReadFile::open(path);
  if (!opened) return opened.error();
  const std::uint64_t size = opened->size();
  const auto part = static_cast<std::int32_t>(source.files.size());
  budget.allow(size);
  source.files.push_back(*std::move(opened));
  Reader reader(source, part, size);
  Parser parser(reader, budget, part);
  if (Status s = parser.parse(file); !s) return at_path(path, s.error());
  *metadata_bytes = parser.metadata_bytes();
  return {};
}

/// Checks that the first part is one, before its siblings are looked for.
Status check_first(const File& file, const std::string& path, const SplitName& name,
                   std::int64_t count) {
  if (name.count == 0)
    return Error{Code::corrupt,
                 fmt::format("{}: one of {} split files, but not named like "
                             "NAME-00001-of-{:05}.gguf, so the others cannot be found",
                             path, count, count)};
  if (name.count != count)
    return Error{Code::corrupt, fmt::format("{}: key \"split.count\" is {}, its name says {}", path,
                                            count, name.count)};
  if (name.number != 1)
    return Error{Code::invalid_argument, fmt::format("{}: part {} of {}; open the first, {}", path,
                                                     name.number, count, name.path(1))};
  return want_value(file, path, "split.no", 0, kMaxParts);
}

}  // namespace

Result<File> parse(std::span<const std::byte> bytes) {
  File file;
  Budget budget;
  budget.allow(bytes.size());
  Reader reader(bytes);
  Parser parser(reader, budget, 0);
  if (Status s = parser.parse(file); !s) return s.error();
  const Result<std::int64_t> parts = split_value(file, "split.count", kMaxParts);
  if (!parts) return parts.error();
  if (*parts > 1)
    return Error{
        Code::unsupported,
        fmt::format("key \"split.count\" is {}: a split file cannot be read from memory", *parts)};
  if (Status s = Parser::index_tensors(file); !s) return s.error();
  file.file_bytes_ = bytes.size();
  file.source_ = std::make_shared<MemorySource>(bytes);
  return file;
}

Result<File> open(const std::string& path) {
  File file;
  Budget budget;
  auto source = std::make_shared<FileSource>();
  std::uint64_t metadata_bytes = 0;
  if (Status s = add_part(path, *source, budget, file, &metadata_bytes); !s) return s.error();
  const Result<std::int64_t> parts = split_value(file, "split.count", kMaxParts);
  if (!parts) return at_path(path, parts.error());
  const SplitName name = split_name(path);
  if (*parts > 1) {
    if (Status s = check_first(file, path, name, *parts); !s) return s.error();
  }
  std::vector<KeyValue> metadata = std::move(file.metadata_);
  std::vector<std::uint32_t> key_order = std::move(file.key_order_);
  for (std::int64_t i = 1; i < *parts; ++i) {
    const std::string sibling = name.path(i + 1);
    Status s = add_part(sibling, *source, budget, file, &metadata_bytes);
    if (s.ok()) s = want_value(file, sibling, "split.no", i, kMaxParts);
    if (s.ok()) s = want_value(file, sibling, "split.count", *parts, kMaxParts);
    if (!s)
      return Error{s.error().code,
                   fmt::format("part {} of {}: {}", i + 1, *parts, s.error().message)};
    file.metadata_ = {};
    budget.release(metadata_bytes);
  }
  file.metadata_ = std::move(metadata);
  file.key_order_ = std::move(key_order);
  if (*parts > 1) {
    if (Status s = want_value(file, path, "split.tensors.count",
                              static_cast<std::int64_t>(file.tensors_.size()), INT64_MAX);
        !s)
      return s.error();
  }
  if (Status s = Parser::index_tensors(file); !s) return at_path(path, s.error());
  for (const ReadFile& part : source->files) file.file_bytes_ += part.size();
  file.source_ = std::move(source);
  return file;
}

}  // namespace herd::gguf
