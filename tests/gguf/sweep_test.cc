// Damage of every kind to a whole tiny model: the answer is a File or a typed error, in bounded
// memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "gguf/craft.h"

namespace {
// Bytes asked of operator new and not given back; the size stands in a header before each block.
std::atomic<std::size_t> g_live{0}, g_peak{0};
constexpr std::size_t kHeader = alignof(std::max_align_t);

void* counted(std::size_t size) {
  auto* block = static_cast<unsigned char*>(std::malloc(size + kHeader));
  if (block == nullptr) throw std::bad_alloc();
  *reinterpret_cast<std::size_t*>(block) = size;
  const std::size_t live = g_live += size;
  for (std::size_t peak = g_peak; live > peak && !g_peak.compare_exchange_weak(peak, live);) {}
  return block + kHeader;
}
void release(void* memory) {
  if (memory == nullptr) return;
  auto* block = static_cast<unsigned char*>(memory) - kHeader;
  g_live -= *reinterpret_cast<std::size_t*>(block);
  std::free(block);
}
}  // namespace

void* operator new(std::size_t size) {
  return counted(size);
}
void* operator new[](std::size_t size) {
  return counted(size);
}
void operator delete(void* memory) noexcept {
  release(memory);
}
void operator delete[](void* memory) noexcept {
  release(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  release(memory);
}

namespace herd::gguf {
namespace {
using craft::Build;
using craft::Bytes;

constexpr std::size_t kExtra = std::size_t{64} << 20;

/// Parses and checks the promises every input must get.
Result<File> parse_bounded(std::span<const std::byte> bytes) {
  const std::size_t before = g_live;
  g_peak = before;
  Result<File> file = parse(bytes);
  EXPECT_LE(g_peak - before, bytes.size() + kExtra);
  if (!file.ok()) {
    EXPECT_TRUE(file.error().code == Code::corrupt || file.error().code == Code::unsupported);
    EXPECT_FALSE(file.error().message.empty());
    EXPECT_EQ(file.error().message.find('\n'), std::string::npos);
  }
  return file;
}

Bytes tiny() {
  return craft::load(HERD_TEST_DATA "/tiny-gqa-Q4_K_M.gguf");
}
constexpr std::size_t kDataStart = 7328;  // of that file

void expect_truncated(std::span<const std::byte> bytes, std::size_t length) {
  const Result<File> file = parse(bytes.first(length));
  ASSERT_FALSE(file.ok()) << "length " << length;
  ASSERT_EQ(file.error().code, Code::corrupt) << file.error().message;
}

TEST(GgufSweep, EveryTruncationOfASmallModel) {
  Writer writer;
  writer.add("general.name", "small");
  writer.add("scores", std::vector<float>{1, 2, 3});
  for (const char* name : {"a", "b", "c"})
    writer.add_tensor(name, quant::Type::Q8_0, {64, 16}, [](std::span<std::byte>) {});
  const Bytes bytes = writer.to_bytes().value();
  ASSERT_TRUE(parse_bounded(bytes).ok());
  for (std::size_t length = 0; length < bytes.size(); ++length) expect_truncated(bytes, length);
}

TEST(GgufSweep, TruncationsOfAGoldenModel) {
  const Bytes bytes = tiny();
  ASSERT_EQ(bytes.size(), 506272u);
  const Result<File> whole = parse_bounded(bytes);
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  for (std::size_t length = 0; length < kDataStart; ++length) expect_truncated(bytes, length);
  // The header is whole from here on: every length around each tensor's end, and a comb between.
  for (std::size_t length = kDataStart; length < bytes.size(); length += 61)
    expect_truncated(bytes, length);
  for (const TensorInfo& tensor : whole->tensors()) {
    const std::size_t end = tensor.offset + tensor.bytes;
    for (std::size_t length = end - 40; length < std::min(end + 40, bytes.size()); ++length)
      expect_truncated(bytes, length);
  }
}

TEST(GgufSweep, EveryFlippedMetadataBit) {
  Bytes bytes = tiny();
  std::size_t refused = 0;
  for (std::size_t at = 0; at < kDataStart; ++at)
    for (int bit = 0; bit < 8; ++bit) {
      bytes[at] ^= std::byte{1} << bit;
      if (!parse_bounded(bytes).ok()) ++refused;
      bytes[at] ^= std::byte{1} << bit;
    }
  EXPECT_GT(refused, 10000u);  // a parser that believed everything would refuse few
  EXPECT_TRUE(parse(bytes).ok());
}

TEST(GgufSweep, WideningArraysStayWithinTheBound) {
  constexpr std::size_t kCount = std::size_t{6} << 20;
  for (const ValueType element : {ValueType::u8, ValueType::i8, ValueType::boolean}) {
    SCOPED_TRACE(to_string(element));
    Build b = Build().header(0, 1).key("k", ValueType::array).array(element, kCount).zeros(kCount);
    EXPECT_TRUE(parse_bounded(b.bytes).ok());  // 48 MiB for 6 MiB of file
    b = Build()
            .header(0, 1)
            .key("k", ValueType::array)
            .array(element, 2 * kCount)
            .zeros(2 * kCount);
    EXPECT_FALSE(parse_bounded(b.bytes).ok());
  }
}

TEST(GgufSweep, ManySmallThingsStayWithinTheBound) {
  Build strings = Build().header(0, 1).key("k", ValueType::array).array(ValueType::string, 900000);
  for (int i = 0; i < 900000; ++i)
    strings.text("0123456789abcdef");  // just too long for its object
  EXPECT_TRUE(parse_bounded(strings.bytes).ok());
  Build keys = Build().header(0, 280000);
  for (std::uint32_t i = 0; i < 280000; ++i)
    keys.u64(4).u32(i).u32(static_cast<std::uint32_t>(ValueType::u8)).u8(0);
  EXPECT_TRUE(parse_bounded(keys.bytes).ok());
  Build tensors = Build().header(500000, 0);
  for (std::uint32_t i = 0; i < 500000; ++i) tensors.u64(4).u32(i).u32(1).u64(1).u32(0).u64(0);
  EXPECT_FALSE(parse_bounded(tensors.bytes).ok());
}

}  // namespace
}  // namespace herd::gguf
