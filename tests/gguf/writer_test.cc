// What the writer writes, the parser reads back; and split files.
#include <gtest/gtest.h>

#include <filesystem>

#include "gguf/craft.h"

namespace herd::gguf {
namespace {
using craft::Build;
using craft::Bytes;
using VT = ValueType;
namespace fs = std::filesystem;

struct Folder {
  fs::path path =
      fs::path(testing::TempDir()) /
      ("gguf-" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

Value array_of(VT element) {
  Value value;
  value.type = VT::array;
  value.element = element;
  return value;
}

/// Two values of every type, extremes included, scalar and array.
std::vector<KeyValue> every_value() {
  std::vector<KeyValue> all;
  auto both = [&](VT type, auto field, auto array_field, auto low, auto high) {
    Value scalar;
    scalar.type = type;
    scalar.*field = high;
    Value array = array_of(type);
    array.*array_field = {low, high};
    all.push_back({"scalar." + std::string(to_string(type)), scalar});
    all.push_back({"array." + std::string(to_string(type)), array});
  };
  const auto u = &Value::unsigned_value;
  const auto ua = &Value::unsigned_array;
  const auto s = &Value::signed_value;
  const auto sa = &Value::signed_array;
  using U = std::uint64_t;
  using I = std::int64_t;
  both(VT::u8, u, ua, U{0}, U{UINT8_MAX});
  both(VT::u16, u, ua, U{1}, U{UINT16_MAX});
  both(VT::u32, u, ua, U{2}, U{UINT32_MAX});
  both(VT::u64, u, ua, U{3}, U{UINT64_MAX});
  both(VT::boolean, u, ua, U{0}, U{1});
  both(VT::i8, s, sa, I{INT8_MAX}, I{INT8_MIN});
  both(VT::i16, s, sa, I{INT16_MAX}, I{INT16_MIN});
  both(VT::i32, s, sa, I{INT32_MAX}, I{INT32_MIN});
  both(VT::i64, s, sa, I{INT64_MAX}, I{INT64_MIN});
  both(VT::f32, &Value::real_value, &Value::float_array, 1.5f, -0.1f);
  both(VT::f64, &Value::real_value, &Value::double_array, 1e300, -0.1);
  both(VT::string, &Value::text, &Value::text_array, std::string("\0\xff", 2),
       std::string(300, 'x'));
  Value nested = array_of(VT::array);
  nested.nested = {all[1].value, array_of(VT::string), all[7].value};
  all.push_back({"nested", nested});
  return all;
}

void expect_equal(const Value& a, const Value& b) {
  EXPECT_EQ(a.type, b.type);
  EXPECT_EQ(a.unsigned_value, b.unsigned_value);
  EXPECT_EQ(a.signed_value, b.signed_value);
  EXPECT_EQ(a.real_value, b.real_value);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.unsigned_array, b.unsigned_array);
  EXPECT_EQ(a.signed_array, b.signed_array);
  EXPECT_EQ(a.float_array, b.float_array);
  EXPECT_EQ(a.double_array, b.double_array);
  EXPECT_EQ(a.text_array, b.text_array);
  EXPECT_EQ(a.array_size(), b.array_size());
  if (a.type == VT::array) {
    EXPECT_EQ(a.element, b.element);
  }
  ASSERT_EQ(a.nested.size(), b.nested.size());
  for (std::size_t i = 0; i < a.nested.size(); ++i) expect_equal(a.nested[i], b.nested[i]);
}

Writer::Fill counting(int start) {
  return [start](std::span<std::byte> out) {
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<std::byte>(start + static_cast<int>(i));
  };
}

TEST(GgufWriter, EveryValueComesBack) {
  Writer writer;
  for (const KeyValue& entry : every_value()) writer.add(entry.key, entry.value);
  const Bytes bytes = writer.to_bytes().value();
  EXPECT_EQ(bytes.size(), writer.file_bytes());
  const Result<File> file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file->metadata().size(), every_value().size());
  for (const KeyValue& entry : every_value()) {
    SCOPED_TRACE(entry.key);
    const Value* found = file->find(entry.key);
    ASSERT_NE(found, nullptr);
    expect_equal(*found, entry.value);
  }
}

TEST(GgufWriter, TensorsComeBackFromDisk) {
  const Folder folder;
  Writer writer;
  writer.add("general.alignment", std::uint32_t{64});
  writer.add("n", std::uint32_t{1});
  writer.add("n", std::int32_t{-2});  // replaces the first
  writer.add_tensor("a", quant::Type::Q4_0, {32, 3}, counting(1));
  writer.add_tensor("b", quant::Type::F32, {5, 1, 2}, counting(100));
  std::int64_t last = 0;
  const std::string path = folder / "m.gguf";
  const Status written = writer.write(path, [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, static_cast<std::int64_t>(writer.file_bytes()));
    last = done;
  });
  ASSERT_TRUE(written.ok()) << written.error().message;
  EXPECT_EQ(last, static_cast<std::int64_t>(fs::file_size(path)));
  EXPECT_EQ(craft::load(path), writer.to_bytes().value());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), {}), 1);  // no temporary left
  const Result<File> file = open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->get_int("n", -9, 9).value(), -2);
  const TensorInfo* b = file->find_tensor("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->offset % 64, 0u);
  EXPECT_EQ(b->bytes, 40u);
  EXPECT_EQ(b->rows(), 2);
  std::byte two[2];
  ASSERT_TRUE(file->read(*b, 38, two).ok());
  EXPECT_EQ(two[1], std::byte{139});
  EXPECT_EQ(file->find_tensor("a")->bytes, 54u);
}

TEST(GgufWriter, RefusesWhatCannotBeRead) {
  auto error_of = [](std::vector<std::int64_t> shape, const char* name) {
    Writer writer;
    writer.add_tensor("w", quant::Type::Q8_0, {32}, counting(0));
    writer.add_tensor(name, quant::Type::Q8_0, std::move(shape), counting(0));
    return writer.to_bytes().error().message;
  };
  EXPECT_EQ(error_of({33}, "v"),
            "tensor \"v\": row length 33 is not a multiple of Q8_0's block of 32");
  EXPECT_EQ(error_of({32, 0}, "v"), "tensor \"v\": dimensions [32, 0] are below 1 or overflow");
  EXPECT_EQ(error_of({32}, "w"), "tensor \"w\" was added twice");
  const Status status = Writer().write("/nonexistent/m.gguf");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message,
            "/nonexistent/m.gguf: cannot create: No such file or directory");
}

TEST(GgufOpen, FileTruncatedAfterOpeningIsAnIoError) {
  const Folder folder;
  Writer writer;
  writer.add_tensor("a", quant::Type::F32, {1024}, counting(0));
  const std::string path = folder / "m.gguf";
  ASSERT_TRUE(writer.write(path).ok());
  const File file = open(path).value();
  fs::resize_file(path, 200);
  Bytes bytes(4096);
  const Status status = file.read(file.tensors()[0], 0, bytes);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Code::io);
  EXPECT_TRUE(status.error().message.starts_with(path + ": the file ends at byte 200"));
}

// ---- splits ----

/// Writes three parts; `change` may alter a part's bytes or keys before it is written.
struct Split {
  Folder folder;
  std::uint16_t count = 3, number[3] = {0, 1, 2};
  std::int32_t total = 4;
  std::string names[4] = {"a", "b", "c", "d"};

  std::string path(int part) const {
    return folder / ("m-0000" + std::to_string(part + 1) + "-of-00003.gguf");
  }
  void write() const {
    for (int part = 0; part < 3; ++part) craft::save(path(part), bytes(part));
  }
  Bytes bytes(int part) const {
    Build b = Build().header(part == 2 ? 2 : 1, part == 0 ? 4 : 3);
    if (part == 0) b.key("general.name", VT::string).text("whole");
    b.key("split.no", VT::u16).raw(number[part]).key("split.count", VT::u16).raw(count);
    b.key("split.tensors.count", VT::i32).raw(total);
    b.tensor(names[part], {4}, 0, 0);
    if (part == 2) b.tensor(names[3], {4}, 0, 32);
    b.data(part == 2 ? 48 : 16);
    b.bytes.back() = static_cast<std::byte>(part + 1);
    return b.bytes;
  }
  std::string error() const {
    const Result<File> file = open(path(0));
    return file.ok() ? "no error" : file.error().message;
  }
};

TEST(GgufSplit, ThreePartsAreOneFile) {
  const Split split;
  split.write();
  const Result<File> file = open(split.path(0));
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->get_string("general.name").value(), "whole");
  EXPECT_EQ(file->get_int("split.no", 0, 9).value(), 0);
  EXPECT_EQ(file->file_bytes(),
            split.bytes(0).size() + split.bytes(1).size() + split.bytes(2).size());
  const int parts[] = {0, 1, 2, 2};
  const int last_byte[] = {1, 2, 0, 3};
  for (std::size_t i = 0; i < 4; ++i) {
    const TensorInfo* tensor = file->find_tensor(split.names[i]);
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->part, parts[i]);
    std::byte byte{0x77};
    ASSERT_TRUE(file->read(*tensor, 15, std::span(&byte, 1)).ok());
    EXPECT_EQ(byte, static_cast<std::byte>(last_byte[i]));
  }
}

TEST(GgufSplit, MissingSiblingIsNamed) {
  const Split split;
  split.write();
  fs::remove(split.path(1));
  EXPECT_EQ(split.error(),
            "part 2 of 3: " + split.path(1) + ": cannot open: No such file or directory");
}

TEST(GgufSplit, MismatchesAreNamed) {
  {
    Split split;
    split.number[2] = 1;
    split.write();
    EXPECT_EQ(split.error(), "part 3 of 3: " + split.path(2) + ": key \"split.no\" is 1, wanted 2");
  }
  {
    Split split;
    split.count = 2;
    split.write();
    EXPECT_EQ(split.error(), split.path(0) + ": key \"split.count\" is 2, its name says 3");
  }
  {
    Split split;
    split.total = 5;
    split.write();
    EXPECT_EQ(split.error(), split.path(0) + ": key \"split.tensors.count\" is 5, wanted 4");
  }
  {
    Split split;
    split.names[3] = "a";
    split.write();
    EXPECT_EQ(split.error(), split.path(0) + ": tensor \"a\" stands twice");
  }
}

TEST(GgufSplit, OtherDoorsAreRefused) {
  const Split split;
  split.write();
  EXPECT_EQ(open(split.path(1)).error().message,
            split.path(1) + ": part 2 of 3; open the first, " + split.path(0));
  const std::string renamed = split.folder / "model.gguf";
  fs::copy_file(split.path(0), renamed);
  EXPECT_EQ(open(renamed).error().message,
            renamed +
                ": one of 3 split files, but not named like NAME-00001-of-00003.gguf, so the "
                "others cannot be found");
  const Bytes bytes = split.bytes(0);
  EXPECT_EQ(parse(bytes).error().message,
            "key \"split.count\" is 3: a split file cannot be read from memory");
  craft::save(split.path(1), std::span<const std::byte>(split.bytes(1)).first(60));
  EXPECT_TRUE(split.error().starts_with("part 2 of 3: " + split.path(1) + ": "));
}

}  // namespace
}  // namespace herd::gguf
