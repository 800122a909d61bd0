// Weights used where they stand in the file's mapping: the same bits as copied ones, and a checksum
// that finds a mapping which is not the file.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "backend/backends.h"
#include "backend/metal/metal.h"

namespace herd::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::int32_t kRows = 37;  // and so a last word of two bytes where rows are of 34

/// A file of several matrices, each at its own offset, with other bytes between them.
class MetalMapping : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(metal_.open({DeviceType::metal_emulated}).ok());
    path_ = fs::temp_directory_path() / ("herd_mapping_test_" + std::to_string(getpid()));
  }
  void TearDown() override { fs::remove(path_); }

  std::uint64_t append(const std::vector<std::byte>& blocks, std::uint64_t alignment) {
    while (bytes_.size() % alignment != 0 || bytes_.empty()) bytes_.push_back(std::byte{0x77});
    const std::uint64_t at = bytes_.size();
    bytes_.insert(bytes_.end(), blocks.begin(), blocks.end());
    for (int i = 0; i < 6; ++i) bytes_.push_back(std::byte{0x55});
    return at;
  }
  std::shared_ptr<const FileMapping> map() {
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes_.data()), std::ssize(bytes_));
    const auto file = ReadFile::open(path_.string());
    EXPECT_TRUE(file.ok());
    auto mapping = file->map();
    EXPECT_TRUE(mapping.ok()) << (mapping.ok() ? "" : mapping.error().message);
    return mapping.ok() ? *mapping : nullptr;
  }
  std::vector<float> product(MatrixId id, std::int32_t inputs) {
    Random random(7);
    const auto x = random.floats(static_cast<std::size_t>(2 * inputs));
    const auto in = metal_.allocate(8 * inputs), halves = metal_.allocate(4 * inputs);
    const auto out = metal_.allocate(8 * kRows);
    EXPECT_TRUE(in.ok() && halves.ok() && out.ok());
    metal_.upload(*in, x.data(), 8 * inputs);
    metal_.to_activations(static_cast<const float*>(*in), *halves, 2 * inputs);
    metal_.matmul({*halves, 2, 1, {id}, {*out}});
    std::vector<float> got(2 * kRows, kPoison);
    const Status status = metal_.download(got.data(), *out, 8 * kRows);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
    return got;
  }

  metal::MetalBackend metal_;
  fs::path path_;
  std::vector<std::byte> bytes_;
};

bool inside(const FileMapping& mapping, const std::byte* p) {
  return p >= mapping.data() && p < mapping.data() + mapping.bytes();
}

TEST_F(MetalMapping, BlocksInPlaceGiveTheSameBits) {
  Random random(101);
  std::vector<std::vector<std::byte>> blocks;
  std::vector<std::uint64_t> offsets;
  for (const quant::TypeInfo& info : quant::kTypes) {
    blocks.push_back(random_blocks(info.type, kRows, 256, random));
    offsets.push_back(append(blocks.back(), 32));
  }
  const auto mapping = map();
  ASSERT_NE(mapping, nullptr);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const quant::TypeInfo& info = quant::kTypes[i];
    SCOPED_TRACE(info.name);
    MatrixSource source = source_of(blocks[i], info.type, kRows, 256);
    const auto copied = metal_.load_matrix(source);
    source.mapping = mapping, source.offset = offsets[i];
    const auto mapped = metal_.load_matrix(source);
    ASSERT_TRUE(copied.ok() && mapped.ok()) << (mapped.ok() ? "" : mapped.error().message);
    EXPECT_FALSE(inside(*mapping, metal_.blocks_of(*copied)));
    EXPECT_EQ(metal_.blocks_of(*mapped), mapping->data() + offsets[i]);
    ASSERT_TRUE(same_bits(product(*mapped, 256), product(*copied, 256)));
  }
  metal_.release_to({0, 0});
  EXPECT_EQ(mapping.use_count(), 1) << "with its matrices the mapping goes";
}

TEST_F(MetalMapping, ReleasingOneMatrixLeavesTheOthers) {
  Random random(104);
  const auto blocks = random_blocks(quant::Type::Q4_0, kRows, 64, random);
  MatrixSource source = source_of(blocks, quant::Type::Q4_0, kRows, 64);
  source.offset = append(blocks, 32);
  source.mapping = map();
  const auto first = metal_.load_matrix(source);
  ASSERT_TRUE(first.ok());
  const auto before = product(*first, 64);
  const MemoryMark mark = metal_.mark();
  ASSERT_TRUE(metal_.load_matrix(source).ok());
  metal_.release_to(mark);
  ASSERT_TRUE(same_bits(product(*first, 64), before));
}

/// The first `count` of two pages, at `at` or anywhere.
std::shared_ptr<const FileMapping> pages(std::size_t count, const std::vector<std::byte>& blocks,
                                         std::size_t offset, void* at = nullptr) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* p = mmap(at, 2 * page, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | (at != nullptr ? MAP_FIXED : 0), -1, 0);
  EXPECT_NE(p, MAP_FAILED);
  std::memcpy(static_cast<std::byte*>(p) + offset, blocks.data(), blocks.size());
  return std::make_shared<const FileMapping>(static_cast<std::byte*>(p), count * page);
}

TEST_F(MetalMapping, AnotherFileAtTheSameAddressIsAnotherMapping) {
  Random random(105);
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto blocks = random_blocks(quant::Type::Q4_0, kRows, 32, random);
  MatrixSource source = source_of(blocks, quant::Type::Q4_0, kRows, 32);
  source.mapping = pages(1, blocks, source.offset = 0);
  auto* at = const_cast<std::byte*>(source.mapping->data());
  ASSERT_TRUE(metal_.load_matrix(source).ok());
  metal_.release_to({0, 0});
  source.mapping = nullptr;
  source.mapping = pages(2, blocks, source.offset = page + 32, at);
  const auto id = metal_.load_matrix(source);
  ASSERT_TRUE(id.ok()) << id.error().message;
  EXPECT_EQ(metal_.blocks_of(*id), at + page + 32);
}

TEST_F(MetalMapping, BlocksThatCannotBeBoundAreCopied) {
  Random random(102);
  const auto blocks = random_blocks(quant::Type::Q8_0, kRows, 256, random);
  const std::uint64_t odd = append(blocks, 32) + 2;
  bytes_.insert(bytes_.begin(), 2, std::byte{0});
  const auto mapping = map();
  ASSERT_NE(mapping, nullptr);
  MatrixSource source = source_of(blocks, quant::Type::Q8_0, kRows, 256);
  const auto copied = metal_.load_matrix(source);
  source.mapping = mapping, source.offset = odd;
  const auto also = metal_.load_matrix(source);
  source.offset = mapping->bytes() - 32;  // the rest is not in the file
  const auto beyond = metal_.load_matrix(source);
  ASSERT_TRUE(copied.ok() && also.ok() && beyond.ok());
  for (const MatrixId id : {*also, *beyond}) {
    EXPECT_FALSE(inside(*mapping, metal_.blocks_of(id)));
    ASSERT_TRUE(same_bits(product(id, 256), product(*copied, 256)));
  }
}

/// Any byte of the mapping that is not the file's is found, the first and the last too.
TEST_F(MetalMapping, AChecksumFindsOtherBytes) {
  Random random(103);
  const auto blocks = random_blocks(quant::Type::Q8_0, kRows, 32, random);
  const std::uint64_t at = append(blocks, 32);
  const auto mapping = map();
  ASSERT_NE(mapping, nullptr);
  for (const std::size_t i :
       {std::size_t{0}, std::size_t{33}, std::size_t{614}, blocks.size() - 3, blocks.size() - 1}) {
    auto file = blocks;
    file[i] ^= std::byte{0x10};
    MatrixSource source = source_of(file, quant::Type::Q8_0, kRows, 32);
    source.mapping = mapping, source.offset = at;
    const auto id = metal_.load_matrix(source);
    ASSERT_FALSE(id.ok()) << "byte " << i;
    EXPECT_EQ(id.error().code, Code::io);
    EXPECT_NE(id.error().message.find("matrix w: the GPU's checksum"), std::string::npos)
        << id.error().message;
  }
  MatrixSource source = source_of(blocks, quant::Type::Q8_0, kRows, 32);
  source.mapping = mapping, source.offset = at;
  EXPECT_TRUE(metal_.load_matrix(source).ok());
}

TEST_F(MetalMapping, AValueTooLargeIsFoundThereToo) {
  std::vector<std::byte> blocks(kRows * 4 * 8);
  const float large = 70000;
  std::memcpy(blocks.data() + blocks.size() - 4, &large, 4);
  const std::uint64_t at = append(blocks, 32);
  MatrixSource source = source_of(blocks, quant::Type::F32, kRows, 8);
  source.mapping = map(), source.offset = at;
  const auto id = metal_.load_matrix(source);
  ASSERT_FALSE(id.ok());
  EXPECT_EQ(id.error().code, Code::unsupported);
}

}  // namespace
}  // namespace herd::testing
