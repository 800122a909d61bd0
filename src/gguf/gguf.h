// GGUF v2 and v3: parse from memory, open from disk (split files too), write.
// Every rule of bad input lives here: no count, offset or type is believed before it is checked.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "herd/status.h"
#include "herd/types.h"
#include "quant/types.h"

namespace herd::gguf {

/// GGUF's metadata types, by their numbers in the file.
enum class ValueType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};
std::string_view to_string(ValueType type);

/// One metadata value. Scalars sit in the field their type widens to; arrays in the vector theirs
/// widens to. Nested arrays are kept in `nested`.
struct Value {
  ValueType type = ValueType::u32;
  ValueType element = ValueType::u32;  // of an array
  std::uint64_t unsigned_value = 0;    // u8 u16 u32 u64 boolean
  std::int64_t signed_value = 0;       // i8 i16 i32 i64
  double real_value = 0;               // f32 f64
  std::string text;                    // string
  std::vector<std::uint64_t> unsigned_array;
  std::vector<std::int64_t> signed_array;
  std::vector<float> float_array;
  std::vector<double> double_array;
  std::vector<std::string> text_array;
  std::vector<Value> nested;

  /// Elements of an array, 0 for scalars.
  std::size_t array_size() const;
};

struct KeyValue {
  std::string key;
  Value value;
};

struct TensorInfo {
  std::string name;
  quant::Type type = quant::Type::F32;
  std::vector<std::int64_t> shape;  // GGUF order: shape[0] is the row length (inputs)
  std::uint64_t offset = 0;         // absolute, in its own file
  std::uint64_t bytes = 0;
  std::int32_t part = 0;  // which split file holds it

  std::int64_t columns() const { return shape.empty() ? 1 : shape[0]; }
  std::int64_t rows() const;  // product of the other dimensions
};

/// Where tensor bytes come from. Implementations: memory, a set of open files.
class Source {
 public:
  virtual ~Source() = default;
  /// Fills `out` from `offset` of file `part`. Errors: io (short read, truncated since opening).
  virtual Status read(std::int32_t part, std::uint64_t offset, std::span<std::byte> out) const = 0;
  /// File `part` as memory. Errors: unsupported (not a file), io.
  virtual Result<std::shared_ptr<const FileMapping>> map(std::int32_t part) const = 0;
};

/// A checked GGUF: metadata in memory, tensors read on demand. Immutable; reads are thread-safe.
class File {
 public:
  std::uint32_t version() const { return version_; }
  std::uint64_t file_bytes() const { return file_bytes_; }  // all parts
  std::span<const KeyValue> metadata() const { return metadata_; }
  std::span<const TensorInfo> tensors() const { return tensors_; }

  const Value* find(std::string_view key) const;  // nullptr if absent
  const TensorInfo* find_tensor(std::string_view name) const;

  // Typed access. Absent key: not_found. Wrong type or range: corrupt. Messages name key, type
  // found and wanted. Any integer type is taken where its value fits.
  Result<std::int64_t> get_int(std::string_view key, std::int64_t min, std::int64_t max) const;
  Result<double> get_real(std::string_view key) const;  // f32, f64
  Result<bool> get_bool(std::string_view key) const;
  Result<std::string_view> get_string(std::string_view key) const;
  Result<std::span<const std::string>> get_strings(std::string_view key) const;
  Result<std::span<const float>> get_floats(std::string_view key) const;  // f32 arrays only
  /// Integer arrays of any width, widened; each value within [min, max].
  Result<std::vector<std::int64_t>> get_ints(std::string_view key, std::int64_t min,
                                             std::int64_t max) const;

  /// Raw blocks [first_byte, first_byte + out.size()) of a tensor of this file.
  Status read(const TensorInfo& tensor, std::uint64_t first_byte, std::span<std::byte> out) const;
  /// The file that holds tensors of `part` as memory: a tensor's bytes begin at its offset in it.
  /// Errors: unsupported (parsed from memory), io.
  Result<std::shared_ptr<const FileMapping>> map(std::int32_t part) const {
    return source_->map(part);
  }

 private:
  friend class Parser;
  friend Result<File> open(const std::string& path);
  friend Result<File> parse(std::span<const std::byte> bytes);
  std::uint32_t version_ = 3;
  std::uint64_t file_bytes_ = 0;
  std::vector<KeyValue> metadata_;           // file order
  std::vector<TensorInfo> tensors_;          // file order
  std::vector<std::uint32_t> key_order_;     // indices sorted by key, for find()
  std::vector<std::uint32_t> tensor_order_;  // indices sorted by name
  std::shared_ptr<const Source> source_;
};

/// A whole file in memory; `bytes` must outlive the File. Splits are refused here.
/// Errors: corrupt or unsupported, naming the key or tensor, the value and the limit. Never
/// allocates more than bytes.size() + 64 MiB, whatever the bytes say.
Result<File> parse(std::span<const std::byte> bytes);

/// Opens `path` (and, for a first split "...-00001-of-0000N.gguf", its siblings), reads the header
/// only. Errors: not_found, io, and those of parse, prefixed by the path.
Result<File> open(const std::string& path);

// ---- writing ----

/// Collects metadata and tensors, then writes a v3 file that parse() accepts. Not thread-safe.
class Writer {
 public:
  void add(std::string_view key, std::uint32_t value);
  void add(std::string_view key, std::int32_t value);
  void add(std::string_view key, std::uint64_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::span<const std::string> values);
  void add(std::string_view key, std::span<const float> values);
  void add(std::string_view key, std::span<const std::int32_t> values);
  void add(std::string_view key, const Value& value);

  /// Declares a tensor; its bytes are produced by `fill` when the file is written, one tensor at a
  /// time. REQUIRES: shape[0] is a multiple of the type's block.
  using Fill = std::function<void(std::span<std::byte> out)>;
  void add_tensor(std::string_view name, quant::Type type, std::vector<std::int64_t> shape,
                  Fill fill);

  std::uint64_t file_bytes() const;  // what write() will produce
  Result<std::vector<std::byte>> to_bytes() const;
  /// Writes to a temporary name beside `path` and renames. Errors: io, naming the path.
  Status write(const std::string& path, const ProgressFn& progress = {}) const;

 private:
  struct PendingTensor {
    TensorInfo info;
    Fill fill;
  };
  std::vector<KeyValue> metadata_;
  std::vector<PendingTensor> tensors_;
};

}  // namespace herd::gguf
