// One exhibit per way a file can lie, each with the exact error it must get.
#include <gtest/gtest.h>

#include "gguf/craft.h"

namespace herd::gguf {
namespace {
using craft::Build;
using VT = ValueType;
constexpr std::uint64_t kHuge = ~std::uint64_t{0};

struct Exhibit {
  const char* name;
  Build file;
  Code code;
  const char* message;
};

Build one_key(VT type) {
  return Build().header(0, 1).key("k", type);
}
Build one_tensor(std::vector<std::uint64_t> shape, std::uint32_t type, std::uint64_t offset,
                 std::size_t data = 128) {
  return Build().header(1, 0).tensor("w", std::move(shape), type, offset).data(data);
}
Build two_tensors(const char* second, std::uint64_t offset) {
  return Build().header(2, 0).tensor("a", {16}, 0, 0).tensor(second, {16}, 0, offset).data(256);
}
Build alignment(VT type, std::uint32_t value) {
  return Build().header(0, 1).key("general.alignment", type).u32(value);
}
Build deep(int depth) {
  Build b = one_key(VT::array);
  for (int i = 1; i < depth; ++i) b.array(VT::array, 1);
  return b.array(VT::u8, 1).u8(7);
}

std::vector<Exhibit> beginnings() {
  return {
      {"empty", Build(), Code::corrupt, "the file ends inside the magic (at byte 0 of 0)"},
      {"other", Build().u32(0x04034b50).zeros(20), Code::corrupt,
       "not a GGUF file: it starts with 504b0304, wanted 47475546 (\"GGUF\")"},
      {"v1", Build().header(0, 0, 1), Code::unsupported, "GGUF version 1; wanted 2 or 3"},
      {"v4", Build().header(0, 0, 4), Code::unsupported, "GGUF version 4; wanted 2 or 3"},
      {"big-endian", Build().header(0, 0, 0x03000000), Code::unsupported,
       "big-endian GGUF (version 0x03000000); wanted little-endian"},
      {"huge key count", Build().header(0, kHuge).zeros(8), Code::corrupt,
       "18446744073709551615 metadata keys need at least 14 bytes each, the file has 8 left"},
      {"huge tensor count", Build().header(1ull << 60, 0).zeros(8), Code::corrupt,
       "1152921504606846976 tensors need at least 33 bytes each, the file has 8 left"},
  };
}

std::vector<Exhibit> keys() {
  return {
      {"key past the end", Build().header(0, 1).u64(kHuge).zeros(6), Code::corrupt,
       "metadata entry 0: its key of 18446744073709551615 bytes is longer than the 6 bytes left in "
       "the file"},
      {"empty key", Build().header(0, 1).text("").zeros(6), Code::corrupt,
       "metadata entry 0: its key is empty"},
      {"long key", Build().header(0, 1).text(std::string(65536, 'k')), Code::corrupt,
       "metadata entry 0: its key has 65536 bytes; the limit is 65535"},
      {"value type", Build().header(0, 1).text("a\n\"").u32(13).u8(0), Code::corrupt,
       "key \"a\\x0a\\\"\": value type 13 is unknown; wanted 0 to 12"},
      {"twice", Build().header(0, 2).key("k", VT::u8).u8(1).key("k", VT::u8).u8(2).zeros(9),
       Code::corrupt, "key \"k\" stands twice in the metadata"},
      {"bool 2", one_key(VT::boolean).u8(2), Code::corrupt,
       "key \"k\": a bool is 2; wanted 0 or 1"},
      {"short scalar", one_key(VT::u64).u32(2), Code::corrupt,
       "key \"k\": the file ends inside its uint64 value (at byte 37 of 41)"},
      {"long string", one_key(VT::string).u64(5).zeros(4), Code::corrupt,
       "key \"k\": its string of 5 bytes is longer than the 4 bytes left in the file"},
      {"alignment 0", alignment(VT::u32, 0), Code::corrupt,
       "key \"general.alignment\": 0 is not a power of two from 1 to 65536"},
      {"alignment 3", alignment(VT::u32, 3), Code::corrupt,
       "key \"general.alignment\": 3 is not a power of two from 1 to 65536"},
      {"alignment 2^31", alignment(VT::u32, 1u << 31), Code::corrupt,
       "key \"general.alignment\": 2147483648 is not a power of two from 1 to 65536"},
      {"alignment i32", alignment(VT::i32, 32), Code::corrupt,
       "key \"general.alignment\": found int32, wanted uint32"},
  };
}

std::vector<Exhibit> arrays() {
  return {
      {"element type", one_key(VT::array).u32(99).u64(0), Code::corrupt,
       "key \"k\": array element type 99 is unknown; wanted 0 to 12"},
      {"huge u64s", one_key(VT::array).array(VT::u64, 1ull << 61).zeros(8), Code::corrupt,
       "key \"k\": 2305843009213693952 array elements of type uint64 need at least 8 bytes each, "
       "the "
       "file has 8 left"},
      {"huge strings", one_key(VT::array).array(VT::string, kHuge), Code::corrupt,
       "key \"k\": 18446744073709551615 array elements of type string need at least 8 bytes each, "
       "the file has 0 left"},
      {"bool 255", one_key(VT::array).array(VT::boolean, 2).u8(1).u8(255), Code::corrupt,
       "key \"k\": a bool is 255; wanted 0 or 1"},
      {"string inside", one_key(VT::array).array(VT::string, 2).text("ab").u64(1), Code::corrupt,
       "key \"k\": an array's string of 1 bytes is longer than the 0 bytes left in the file"},
      {"deep", deep(5), Code::corrupt, "key \"k\": arrays nested 5 deep; the limit is 4"},
      {"very deep", deep(100000), Code::corrupt, "key \"k\": arrays nested 5 deep; the limit is 4"},
      {"9 M tiny strings", one_key(VT::array).array(VT::string, 9u << 20).zeros(72u << 20),
       Code::unsupported,
       "key \"k\": would take more memory than the 141557809 bytes allowed for the header"},
      {"3 M tiny arrays", one_key(VT::array).array(VT::array, 3u << 20).zeros(36u << 20),
       Code::unsupported,
       "key \"k\": would take more memory than the 103809073 bytes allowed for the header"},
  };
}

std::vector<Exhibit> tensors() {
  return {
      {"n_dims 0", one_tensor({}, 0, 0), Code::corrupt,
       "tensor \"w\": 0 dimensions; wanted 1 to 4"},
      {"n_dims 5", one_tensor({1, 1, 1, 1, 1}, 0, 0), Code::corrupt,
       "tensor \"w\": 5 dimensions; wanted 1 to 4"},
      {"dim 0", one_tensor({4, 0}, 0, 0), Code::corrupt,
       "tensor \"w\": dimension 1 is 0; wanted 1 to 9223372036854775807"},
      {"dim 2^63", one_tensor({1ull << 63}, 0, 0), Code::corrupt,
       "tensor \"w\": dimension 0 is 9223372036854775808; wanted 1 to 9223372036854775807"},
      {"product wraps to 0", one_tensor({1ull << 32, 1ull << 32}, 0, 0), Code::corrupt,
       "tensor \"w\": dimensions [4294967296, 4294967296] of F32 overflow 64 bits"},
      {"bytes wrap", one_tensor({1ull << 62}, 0, 0), Code::corrupt,
       "tensor \"w\": dimensions [4611686018427387904] of F32 overflow 64 bits"},
      {"half a block", one_tensor({48}, 8, 0), Code::corrupt,
       "tensor \"w\": row length 48 is not a multiple of Q8_0's block of 32"},
      {"IQ2_XXS", one_tensor({256}, 16, 0), Code::unsupported,
       "tensor \"w\": tensor type IQ2_XXS is not supported"},
      {"type 999", one_tensor({256}, 999, 0), Code::unsupported,
       "tensor \"w\": unknown tensor type 999 is not supported"},
      {"odd offset", one_tensor({4}, 0, 4), Code::corrupt,
       "tensor \"w\": offset 4 is not a multiple of the alignment 32"},
      {"offset beyond", one_tensor({16}, 0, 96), Code::corrupt,
       "tensor \"w\": 64 bytes at offset 96 of the data (which starts at byte 64) reach beyond the "
       "file's 192 bytes"},
      {"offset wraps", one_tensor({16}, 0, kHuge - 31), Code::corrupt,
       "tensor \"w\": 64 bytes at offset 18446744073709551584 of the data (which starts at byte "
       "64) "
       "reach beyond the file's 192 bytes"},
      {"overlap", two_tensors("b", 32), Code::corrupt,
       "tensors \"a\" and \"b\" overlap: the first ends at byte 160, the second starts at 128"},
      {"same place", two_tensors("b", 0), Code::corrupt,
       "overlap: the first ends at byte 160, the "
       "second starts at 96"},
      {"name twice", two_tensors("a", 64), Code::corrupt, "tensor \"a\" stands twice"},
      {"no name", Build().header(1, 0).text("").zeros(40), Code::corrupt,
       "tensor entry 0: its name is empty"},
      {"long name", Build().header(1, 0).text(std::string(128, 'n')).zeros(40), Code::corrupt,
       "tensor entry 0: its name has 128 bytes; the limit is 127"},
  };
}

void expect_errors(const std::vector<Exhibit>& exhibits) {
  for (const Exhibit& exhibit : exhibits) {
    SCOPED_TRACE(exhibit.name);
    const Result<File> file = parse(exhibit.file.bytes);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(to_string(file.error().code), to_string(exhibit.code)) << file.error().message;
    if (std::string(exhibit.name) == "same place")  // which of the two comes first is open
      EXPECT_TRUE(file.error().message.ends_with(exhibit.message)) << file.error().message;
    else
      EXPECT_EQ(file.error().message, exhibit.message);
  }
}

TEST(GgufMuseum, Beginnings) {
  expect_errors(beginnings());
}
TEST(GgufMuseum, Keys) {
  expect_errors(keys());
}
TEST(GgufMuseum, Arrays) {
  expect_errors(arrays());
}
TEST(GgufMuseum, Tensors) {
  expect_errors(tensors());
}

TEST(GgufMuseum, TheirSoundTwinsAreAccepted) {
  EXPECT_TRUE(parse(Build().header(0, 0).bytes).ok());
  EXPECT_TRUE(parse(deep(4).bytes).ok());
  EXPECT_TRUE(parse(one_tensor({16}, 0, 64).bytes).ok());
  EXPECT_TRUE(parse(one_tensor({1, 1, 1, 1}, 0, 0).bytes).ok());
  EXPECT_TRUE(parse(two_tensors("b", 64).bytes).ok());
  EXPECT_TRUE(parse(alignment(VT::u32, 65536).bytes).ok());
  EXPECT_TRUE(
      parse(Build().header(1, 0).tensor(std::string(127, 'n'), {4}, 0, 0).data(16).bytes).ok());
}

}  // namespace
}  // namespace herd::gguf
