// Reading: a model written by the gguf Python package, typed access, v2.
#include <gtest/gtest.h>

#include <chrono>

#include "gguf/craft.h"
#include "gguf/inspect.h"

namespace herd::gguf {
namespace {
using craft::Build;
using craft::Bytes;
using VT = ValueType;

const char* const kTiny = HERD_TEST_DATA "/tiny-gqa-Q4_K_M.gguf";

void expect_tiny(const File& file) {
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.file_bytes(), 506272u);
  EXPECT_EQ(file.metadata().size(), 22u);
  EXPECT_EQ(file.tensors().size(), 20u);
  EXPECT_EQ(file.metadata()[0].key, "general.architecture");
  EXPECT_EQ(file.get_string("general.name").value(), "tiny-gqa");
  EXPECT_EQ(file.get_int("llama.context_length", 1, 1 << 20).value(), 2048);
  EXPECT_EQ(file.get_real("llama.rope.freq_base").value(), 10000.0);
  EXPECT_EQ(file.get_real("llama.attention.layer_norm_rms_epsilon").value(), double{1e-5f});
  EXPECT_FALSE(file.get_bool("tokenizer.ggml.add_bos_token").value());
  const auto tokens = file.get_strings("tokenizer.ggml.tokens").value();
  ASSERT_EQ(tokens.size(), 320u);
  EXPECT_EQ(tokens[0], "<|endoftext|>");
  EXPECT_EQ(tokens[3], "!");
  EXPECT_EQ(file.get_strings("tokenizer.ggml.merges").value()[0], "\xc4\xa0 t");
  const auto types = file.get_ints("tokenizer.ggml.token_type", 0, 6).value();
  ASSERT_EQ(types.size(), 320u);
  EXPECT_EQ(types[2], 3);
  EXPECT_EQ(types[3], 1);
}

void expect_tiny_tensors(const File& file) {
  const TensorInfo* embedding = file.find_tensor("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->type, quant::Type::Q6_K);
  EXPECT_EQ(embedding->shape, (std::vector<std::int64_t>{256, 320}));
  EXPECT_EQ(embedding->columns(), 256);
  EXPECT_EQ(embedding->rows(), 320);
  EXPECT_EQ(embedding->offset, 8352u);
  EXPECT_EQ(embedding->bytes, 67200u);
  std::vector<std::byte> bytes(8);
  ASSERT_TRUE(file.read(*embedding, 0, bytes).ok());
  const unsigned char wanted[] = {0x7d, 0x00, 0xbb, 0x96, 0xf4, 0x0f, 0x04, 0x2f};
  EXPECT_EQ(std::memcmp(bytes.data(), wanted, 8), 0);
  const TensorInfo* up = file.find_tensor("blk.1.ffn_up.weight");
  ASSERT_NE(up, nullptr);
  EXPECT_EQ(up->offset, 469408u);
  EXPECT_EQ(up->bytes, 36864u);
  EXPECT_EQ(file.find_tensor("blk.1.ffn_u"), nullptr);
  const Status beyond = file.read(*embedding, 67193, bytes);
  ASSERT_FALSE(beyond.ok());
  EXPECT_EQ(beyond.error().message,
            "tensor \"token_embd.weight\": 8 bytes at 67193 are outside its 67200 bytes");
}

TEST(GgufFile, GoldenModelFromMemory) {
  const Bytes bytes = craft::load(kTiny);
  const Result<File> file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  expect_tiny(*file);
  expect_tiny_tensors(*file);
}

TEST(GgufFile, GoldenModelFromDisk) {
  const Result<File> file = open(kTiny);
  ASSERT_TRUE(file.ok()) << file.error().message;
  expect_tiny(*file);
  expect_tiny_tensors(*file);
}

TEST(GgufFile, RealVocabularyLoadsFast) {
  const auto start = std::chrono::steady_clock::now();
  const Result<File> file = open(HERD_TEST_DATA "/smollm2-vocab.gguf");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->get_strings("tokenizer.ggml.tokens").value().size(), 49152u);
  RecordProperty("milliseconds", static_cast<int>(took.count() * 1000));
  EXPECT_LT(took.count(), 1.0);  // a few ms; generous for sanitizers and busy machines
}

Bytes one_of_each() {
  return Build()
      .header(0, 6)
      .key("byte", VT::u8)
      .u8(200)
      .key("minus", VT::i16)
      .raw(std::int16_t{-5})
      .key("big", VT::u64)
      .u64(~0ull)
      .key("real", VT::f32)
      .raw(0.5f)
      .key("ints", VT::array)
      .array(VT::i8, 2)
      .raw(std::int8_t{-1})
      .raw(std::int8_t{7})
      .key("scores", VT::array)
      .array(VT::f32, 1)
      .raw(1.5f)
      .bytes;
}

template <class T>
void expect_error(const Result<T>& result, Code code, const std::string& message) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, code);
  EXPECT_EQ(result.error().message, message);
}

TEST(GgufFile, TypedAccessNamesFoundAndWanted) {
  const Bytes bytes = one_of_each();
  const File file = parse(bytes).value();
  EXPECT_EQ(file.get_int("byte", 0, 255).value(), 200);
  EXPECT_EQ(file.get_int("minus", -5, 0).value(), -5);
  EXPECT_EQ(file.get_ints("ints", -1, 7).value(), (std::vector<std::int64_t>{-1, 7}));
  EXPECT_EQ(file.get_floats("scores").value()[0], 1.5f);
  expect_error(file.get_int("none", 0, 1), Code::not_found, "key \"none\" is absent");
  expect_error(file.get_int("byte", 0, 199), Code::corrupt,
               "key \"byte\": 200 is outside [0, 199]");
  expect_error(file.get_int("big", 0, INT64_MAX), Code::corrupt,
               "key \"big\": 18446744073709551615 is outside [0, 9223372036854775807]");
  expect_error(file.get_int("real", 0, 1), Code::corrupt,
               "key \"real\": found float32, wanted an integer");
  expect_error(file.get_real("byte"), Code::corrupt,
               "key \"byte\": found uint8, wanted float32 or float64");
  expect_error(file.get_bool("byte"), Code::corrupt, "key \"byte\": found uint8, wanted bool");
  expect_error(file.get_string("ints"), Code::corrupt,
               "key \"ints\": found array of int8, wanted string");
  expect_error(file.get_strings("ints"), Code::corrupt,
               "key \"ints\": found array of int8, wanted array of string");
  expect_error(file.get_floats("ints"), Code::corrupt,
               "key \"ints\": found array of int8, wanted array of float32");
  expect_error(file.get_ints("scores", 0, 1), Code::corrupt,
               "key \"scores\": found array of float32, wanted array of integers");
  expect_error(file.get_ints("ints", 0, 9), Code::corrupt,
               "key \"ints\": element 0 is -1, outside [0, 9]");
}

TEST(GgufFile, Version2) {
  Build b = Build().header(1, 1, 2).key("k", VT::u32).u32(5).tensor("w", {2}, 0, 0).data(8);
  const Result<File> file = parse(b.bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->version(), 2u);
  EXPECT_EQ(file->get_int("k", 0, 9).value(), 5);
  EXPECT_EQ(file->tensors()[0].offset, b.bytes.size() - 8);
}

TEST(GgufFile, Summaries) {
  const Bytes bytes = one_of_each();
  const File file = parse(bytes).value();
  EXPECT_EQ(to_json(*file.find("byte")), "200");
  EXPECT_EQ(to_json(*file.find("real")), "0.5");
  EXPECT_EQ(to_json(*file.find("ints")), "[-1,7]");
  EXPECT_EQ(summarize(*file.find("byte"), 3), "200");
  EXPECT_EQ(summarize(*file.find("real"), 3), "0.5");
  EXPECT_EQ(summarize(*file.find("ints"), 3), "[-1, 7]");
  EXPECT_EQ(summarize(*file.find("ints"), 1), "[-1, ... 1 more]");
  EXPECT_EQ(summarize(*file.find("ints"), 0), "[... 2 more]");
  Value text;
  text.type = VT::string;
  text.text = "a\n\"b";
  EXPECT_EQ(summarize(text, 1), "\"a\\x0a\\\"b\"");
}

TEST(GgufFile, AMappingHoldsEveryTensorAtItsOffset) {
  std::shared_ptr<const FileMapping> mapping;
  const auto opened = open(kTiny);
  ASSERT_TRUE(opened.ok());
  {
    const File again = open(kTiny).value();
    mapping = again.map(0).value();  // and outlives its file
  }
  EXPECT_EQ(mapping->bytes() % 4096, 0u);
  ASSERT_GE(mapping->bytes(), opened->file_bytes());
  for (const TensorInfo& tensor : opened->tensors()) {
    std::vector<std::byte> bytes(tensor.bytes);
    ASSERT_TRUE(opened->read(tensor, 0, bytes).ok());
    EXPECT_EQ(std::memcmp(mapping->data() + tensor.offset, bytes.data(), bytes.size()), 0)
        << tensor.name;
  }
  expect_error(parse(one_of_each()).value().map(0), Code::unsupported,
               "parsed from memory: there is no file to map");
}

TEST(GgufFile, MissingAndForeignFiles) {
  const Result<File> missing = open("/nonexistent/x.gguf");
  expect_error(missing, Code::not_found,
               "/nonexistent/x.gguf: cannot open: No such file or directory");
  const Result<File> folder = open(HERD_TEST_DATA);
  expect_error(folder, Code::io, HERD_TEST_DATA ": not a regular file");
  const Result<File> text = open(HERD_TEST_DATA "/README.md");
  ASSERT_FALSE(text.ok());
  EXPECT_TRUE(text.error().message.starts_with(HERD_TEST_DATA "/README.md: not a GGUF file"));
}

}  // namespace
}  // namespace herd::gguf
