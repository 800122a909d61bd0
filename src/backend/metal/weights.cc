// Matrices: GGUF blocks as the file has them, in its mapping where that can be read in place, else
// copied.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "backend/metal/metal.h"
#include "base/checked.h"

namespace herd::metal {
namespace {

constexpr std::int64_t kMostSize = std::int64_t{1} << 31;  // rows and columns are below
constexpr float kMostHalf = 65520.0f;                      // from here a half is infinite
constexpr std::uint64_t kAlignment = 32;  // of an offset that every Metal device can bind
constexpr std::int64_t kMostChecked = std::int64_t{1}
                                      << 33;  // bytes, so that words are counted in 32 bits
constexpr std::int64_t kChunk = 1 << 20;      // bytes, about, that are read at a time to be checked

Status check_shape(const MatrixSource& source) {
  if (source.rows < 1 || source.columns < 1 || source.rows >= kMostSize ||
      source.columns >= kMostSize)
    return {Code::out_of_range, fmt::format("matrix {}: {} x {} is outside 1..2^31-1", source.name,
                                            source.rows, source.columns)};
  const quant::TypeInfo& info = quant::type_info(source.type);
  if (source.columns % info.block == 0) return {};
  return {Code::invalid_argument,
          fmt::format("matrix {}: {} columns, must be a multiple of {}, the block of {}",
                      source.name, source.columns, info.block, info.name)};
}

/// Weights become halves on their way into products. `blocks` are some or all rows.
Status check_range(const MatrixSource& source, std::span<const std::byte> blocks) {
  if (source.use == MatrixUse::lookup) return {};
  const bool wide = source.type == quant::Type::F32;
  if (!wide && source.type != quant::Type::BF16) return {};
  const std::size_t size = wide ? 4 : 2;
  for (std::size_t at = 0; at < blocks.size(); at += size) {
    std::uint32_t bits = 0;
    std::memcpy(reinterpret_cast<std::byte*>(&bits) + 4 - size, blocks.data() + at, size);
    if (!(std::fabs(std::bit_cast<float>(bits)) < kMostHalf))
      return {Code::unsupported,
              fmt::format("matrix {}: a value is beyond 65504, the largest the metal backend holds",
                          source.name)};
  }
  return {};
}

/// What the kernel `checksum` computes, over bytes that come in pieces of whole words but the last.
class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += 4) {
      std::uint32_t word = 0;
      std::memcpy(&word, bytes.data() + at, std::min<std::size_t>(4, bytes.size() - at));
      sum_ += args::checked_word(word, index_++);
    }
  }
  std::uint32_t value() const { return sum_; }

 private:
  std::uint32_t sum_ = 0, index_ = 0;
};

/// Of a matrix as read from its file; its values are checked on the way.
Result<std::uint32_t> checksum_of(const MatrixSource& source, std::int64_t row_bytes) {
  const std::int64_t at_once =
      std::max<std::int64_t>(1, kChunk / row_bytes / 4) * 4;  // whole words
  std::vector<std::byte> chunk(
      static_cast<std::size_t>(std::min(at_once, source.rows) * row_bytes));
  Checksum sum;
  for (std::int64_t first = 0; first < source.rows; first += at_once) {
    const std::int64_t count = std::min(at_once, source.rows - first);
    const auto part = std::span(chunk).first(static_cast<std::size_t>(count * row_bytes));
    if (Status status = source.read(first, count, part); !status.ok()) return status.error();
    if (Status status = check_range(source, part); !status.ok()) return status.error();
    sum.add(part);
  }
  return sum.value();
}

}  // namespace

std::int64_t MetalBackend::matrix_bytes(quant::Type type, std::int64_t rows, std::int64_t columns,
                                        MatrixUse) const {
  return rows * quant::row_bytes(type, columns);
}

Result<MatrixId> MetalBackend::load_matrix(const MatrixSource& source) {
  if (Status bad = check_shape(source); !bad.ok()) return bad.error();
  const std::string_view type = quant::type_info(source.type).name;
  for (const char* kernel : {"batch_matmul_8", "batch_matmul_32", "embed_batch"})
    if (prepared(fmt::format("{}_{}", kernel, type)) == nullptr) return status_.error();
  Matrix m;
  m.type = source.type, m.rows = source.rows, m.columns = source.columns;
  m.row_bytes = quant::row_bytes(m.type, m.columns);
  if (Status status = find_in_mapping(source, m) ? check_mapping(source, m) : copy(source, m);
      !status.ok()) {
    release(m);
    return status.error();
  }
  matrices_.push_back(m);
  return MatrixId{static_cast<std::int32_t>(matrices_.size()) - 1};
}

Status MetalBackend::copy(const MatrixSource& source, Matrix& m) {
  const std::int64_t bytes = m.rows * m.row_bytes;
  m.blocks = take(bytes);
  if (m.blocks.data == nullptr)
    return {Code::resource_exhausted,
            fmt::format("{}: no Metal memory for {} bytes", source.name, bytes)};
  const std::span<std::byte> blocks(m.blocks.data, static_cast<std::size_t>(bytes));
  if (Status status = source.read(0, m.rows, blocks); !status.ok()) return status;
  return check_range(source, blocks);
}

bool MetalBackend::find_in_mapping(const MatrixSource& source, Matrix& m) {
  const std::int64_t bytes = m.rows * m.row_bytes;
  if (source.mapping == nullptr || source.offset % kAlignment != 0 || bytes > kMostChecked ||
      !(ByteSize(source.offset) + ByteSize(static_cast<std::uint64_t>(bytes)))
           .within(source.mapping->bytes()))
    return false;
  const std::byte* base = source.mapping->data();
  if (!memory_.contains(base)) {
    const Buffer all = device_->wrap(base, static_cast<std::int64_t>(source.mapping->bytes()));
    if (all.data == nullptr) return false;
    memory_[base] = all;
  }
  m.mapping = source.mapping;
  m.blocks = {memory_[base].handle, memory_[base].data + source.offset, bytes};
  return true;
}

/// The GPU's checksum of the mapping against the host's of what it reads from the file.
Status MetalBackend::check_mapping(const MatrixSource& source, const Matrix& m) {
  if (sums_.data == nullptr) sums_ = take(4 * args::kChecksumGroups);
  if (sums_.data == nullptr)
    return {Code::resource_exhausted, "checksums: no Metal memory for 256 bytes"};
  const std::uint32_t threads = threads_of("checksum", args::kElementThreads);
  const auto groups = static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(m.blocks.bytes / 4 / threads, 1, args::kChecksumGroups));
  run("checksum", {m.blocks.data, sums_.data}, args::Checksum{m.blocks.bytes}, {groups}, threads);
  device_->commit();
  const auto wanted = checksum_of(source, m.row_bytes);  // while the GPU works
  if (Status status = wait(); !status.ok()) return status;
  if (!wanted.ok()) return wanted.error();
  std::uint32_t sum = 0;
  for (std::uint32_t i = 0; i < groups; ++i) {
    std::uint32_t of_group = 0;
    std::memcpy(&of_group, sums_.data + 4 * i, 4);
    sum += of_group;
  }
  if (sum == *wanted) return {};
  return {Code::io, fmt::format("matrix {}: the GPU's checksum of the mapped file is {:08x}, the "
                                "file's is {:08x}; is somebody writing to it?",
                                source.name, sum, *wanted)};
}

void MetalBackend::release(const Matrix& m) {
  if (m.mapping == nullptr) return give(m.blocks);
  const auto uses = [&](const Matrix& other) { return &other != &m && other.mapping == m.mapping; };
  if (std::ranges::any_of(matrices_, uses)) return;
  const Buffer all = memory_[m.mapping->data()];
  give(all);
}

}  // namespace herd::metal
