// Every block type against values written by another library (tests/data/blocks), bit for bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/half.h"
#include "quant/types.h"

namespace herd::quant {
namespace {

template <class T>
std::vector<T> read_all(const std::string& name) {
  std::ifstream file(std::string(HERD_TEST_DATA) + "/blocks/" + name, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<T> out(bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
  return out;
}

std::string type_name(const testing::TestParamInfo<Type>& info) {
  return std::string(type_info(info.param).name);
}

/// Index of the first value whose bits differ, or -1.
std::ptrdiff_t first_difference(std::span<const float> a, std::span<const float> b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]))
      return static_cast<std::ptrdiff_t>(i);
  return -1;
}

class GoldenBlocks : public testing::TestWithParam<Type> {};

TEST_P(GoldenBlocks, EqualBits) {
  const TypeInfo& type = type_info(GetParam());
  const auto blocks = read_all<std::byte>(std::string(type.name) + ".blocks");
  const auto expected = read_all<float>(std::string(type.name) + ".f32");
  ASSERT_EQ(blocks.size(), std::size_t{16} * static_cast<std::size_t>(type.bytes));
  ASSERT_EQ(expected.size(), std::size_t{16} * static_cast<std::size_t>(type.block));
  std::vector<float> values(expected.size());
  dequantize(type.type, blocks, values);
  const std::ptrdiff_t at = first_difference(values, expected);
  ASSERT_EQ(at, -1) << values[static_cast<std::size_t>(at)] << " instead of "
                    << expected[static_cast<std::size_t>(at)];
}

TEST_P(GoldenBlocks, ABlockDoesNotDependOnItsNeighbours) {
  const TypeInfo& type = type_info(GetParam());
  const auto blocks = read_all<std::byte>(std::string(type.name) + ".blocks");
  const auto expected = read_all<float>(std::string(type.name) + ".f32");
  const auto bytes = static_cast<std::size_t>(type.bytes);
  const auto block = static_cast<std::size_t>(type.block);
  ASSERT_EQ(blocks.size(), 16 * bytes);
  std::vector<float> values(block);
  for (std::size_t i = 0; i < 16; ++i) {
    dequantize(type.type, std::span(blocks).subspan(i * bytes, bytes), values);
    ASSERT_EQ(first_difference(values, std::span(expected).subspan(i * block, block)), -1) << i;
  }
}

TEST_P(GoldenBlocks, PartsMakeTheValuesExactly) {
  const TypeInfo& type = type_info(GetParam());
  const auto blocks = read_all<std::byte>(std::string(type.name) + ".blocks");
  const auto expected = read_all<float>(std::string(type.name) + ".f32");
  std::vector<float> codes(expected.size()), scales(expected.size() / 16), mins(scales.size());
  decompose(type.type, blocks, codes.data(), scales.data(), mins.data());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t g = i / static_cast<std::size_t>(type.group);
    const float value = std::fma(scales[g], codes[i], type.has_min ? mins[g] : -0.0f);
    ASSERT_EQ(std::bit_cast<std::uint32_t>(value), std::bit_cast<std::uint32_t>(expected[i])) << i;
    ASSERT_TRUE(std::abs(codes[i]) <= 128 && codes[i] == std::round(codes[i])) << codes[i];
  }
}

INSTANTIATE_TEST_SUITE_P(AllBlockTypes, GoldenBlocks,
                         testing::Values(Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1, Type::Q8_0,
                                         Type::Q2_K, Type::Q3_K, Type::Q4_K, Type::Q5_K, Type::Q6_K,
                                         Type::IQ4_NL, Type::IQ4_XS),
                         type_name);

TEST(Dequantize, FloatsStayAsTheyAre) {
  const std::vector<float> in = {0.0f, -0.0f, 1.5f, -3.25e-41f, 3.4e38f};
  std::vector<float> out(in.size());
  dequantize(Type::F32, std::as_bytes(std::span(in)), out);
  EXPECT_EQ(first_difference(in, out), -1);
}

TEST(Dequantize, HalvesOfAllKinds) {
  const std::vector<std::uint16_t> in = {0x0000, 0x8000, 0x3c00, 0xc000, 0x0001, 0x7bff, 0x3555};
  const std::vector<float> expected = {0.0f,       -0.0f,    1.0f,           -2.0f,
                                       0x1.0p-24f, 65504.0f, 0.333251953125f};
  std::vector<float> out(in.size());
  dequantize(Type::F16, std::as_bytes(std::span(in)), out);
  EXPECT_EQ(first_difference(out, expected), -1);
}

TEST(Dequantize, Bf16IsTheUpperHalfOfAFloat) {
  const std::vector<std::uint16_t> in = {0x0000, 0x8000, 0x3f80, 0xc040, 0x0001, 0x7f7f};
  const std::vector<float> expected = {0.0f, -0.0f, 1.0f, -3.0f, 0x1.0p-133f, 0x1.fep127f};
  std::vector<float> out(in.size());
  dequantize(Type::BF16, std::as_bytes(std::span(in)), out);
  EXPECT_EQ(first_difference(out, expected), -1);
}

}  // namespace
}  // namespace herd::quant
