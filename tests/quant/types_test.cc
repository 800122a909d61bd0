#include "quant/types.h"

#include <gtest/gtest.h>

#include <set>
#include <string_view>

namespace herd::quant {
namespace {

TEST(Types, FifteenAreReadAndElevenAreWritten) {
  std::set<std::uint32_t> numbers;
  int writable = 0;
  for (const TypeInfo& info : kTypes) {
    numbers.insert(static_cast<std::uint32_t>(info.type));
    writable += info.can_quantize ? 1 : 0;
  }
  EXPECT_EQ(numbers.size(), 15u);
  EXPECT_EQ(writable, 11);
}

TEST(Types, AreFoundByNumberAndByName) {
  for (const TypeInfo& info : kTypes) {
    EXPECT_EQ(find_type(static_cast<std::uint32_t>(info.type)), &info);
    EXPECT_EQ(find_type(info.name), &info);
    EXPECT_EQ(gguf_type_name(static_cast<std::uint32_t>(info.type)), info.name);
  }
  EXPECT_EQ(find_type(std::uint32_t{9}), nullptr);
  EXPECT_EQ(find_type(std::string_view("q4_0")), nullptr);
  EXPECT_EQ(find_type(std::string_view("")), nullptr);
}

TEST(Types, NamesOfTypesThatAreNotRead) {
  EXPECT_EQ(gguf_type_name(4), "Q4_2");
  EXPECT_EQ(gguf_type_name(9), "Q8_1");
  EXPECT_EQ(gguf_type_name(16), "IQ2_XXS");
  EXPECT_EQ(gguf_type_name(24), "I8");
  EXPECT_EQ(gguf_type_name(28), "F64");
  EXPECT_EQ(gguf_type_name(29), "IQ1_M");
  EXPECT_EQ(gguf_type_name(34), "TQ1_0");
  EXPECT_EQ(gguf_type_name(39), "MXFP4");
  EXPECT_EQ(gguf_type_name(41), "Q1_0");
  EXPECT_EQ(gguf_type_name(42), "");
  EXPECT_EQ(gguf_type_name(0xffffffffu), "");
}

TEST(Types, RowBytes) {
  EXPECT_EQ(row_bytes(Type::F32, 3), 12);
  EXPECT_EQ(row_bytes(Type::Q4_1, 576), 360);
  EXPECT_EQ(row_bytes(Type::Q6_K, 14336), 11760);
}

}  // namespace
}  // namespace herd::quant
