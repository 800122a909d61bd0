// Turns the header of one GGUF file into metadata and tensor entries, believing nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "gguf/reader.h"

namespace herd::gguf {

inline constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
inline constexpr std::uint32_t kDefaultAlignment = 32;
inline constexpr std::uint32_t kMaxAlignment = 65536;
inline constexpr std::size_t kMaxKeyBytes = 65535;
inline constexpr std::size_t kMaxTensorNameBytes = 127;
inline constexpr std::uint32_t kMaxDimensions = 4;
inline constexpr int kMaxArrayDepth = 4;
inline constexpr const char* kAlignmentKey = "general.alignment";

/// One header, read once, front to back.
class Parser {
 public:
  Parser(Reader& reader, Budget& budget, std::int32_t part)
      : reader_(reader), budget_(budget), part_(part) {}

  /// Reads the header: `file` gets this part's tensors added, and its metadata in place of what it
  /// held.
  Status parse(File& file);
  /// What the metadata of the last parse was charged.
  std::uint64_t metadata_bytes() const { return metadata_bytes_; }
  /// Sorts `file`'s tensors for look-up. Error: a name that stands twice.
  static Status index_tensors(File& file);

 private:
  Status read_preamble();
  Status read_metadata();
  Status read_key_value(KeyValue& entry);
  Status read_value(Value& value, ValueType type, int depth);
  Status read_array(Value& value, int depth);
  Status read_elements(Value& value, std::uint64_t count, int depth);
  Status read_nested(Value& value, std::uint64_t count, int depth);
  Status read_strings(Value& value, std::uint64_t count);
  Status read_scalar(Value& value);
  Status read_boolean(std::uint64_t& out);
  Status read_type(ValueType& type, std::string_view what);
  Status read_text(std::string& text, std::uint64_t max_bytes, std::string_view what);
  template <class T>
  Status read_plain(std::vector<T>& out, std::uint64_t count);
  template <class T, class Wide>
  Status read_widened(std::vector<Wide>& out, std::uint64_t count);
  Status read_booleans(std::vector<std::uint64_t>& out, std::uint64_t count);

  Status index_keys(File& file);
  Status read_alignment(const File& file);
  Status read_tensors(File& file);
  Status read_tensor(TensorInfo& tensor);
  Status read_shape(TensorInfo& tensor);
  Status read_tensor_type(TensorInfo& tensor);
  Status size_tensor(TensorInfo& tensor);
  Status place_tensors(File& file, std::size_t first);
  Status check_overlap(const File& file, std::size_t first);

  Error corrupt(std::string message) const;
  Error truncated(std::string_view what) const;
  Error too_many(std::string_view what, std::uint64_t count, std::uint64_t min_bytes) const;
  Status charge(ByteSize bytes);

  Reader& reader_;
  Budget& budget_;
  std::int32_t part_;
  std::string subject_;  // the key or tensor being read, for messages
  std::uint32_t version_ = 0;
  std::uint64_t tensor_count_ = 0;
  std::uint64_t key_count_ = 0;
  std::uint64_t metadata_bytes_ = 0;
  std::uint32_t alignment_ = kDefaultAlignment;
  std::vector<KeyValue> metadata_;
};

}  // namespace herd::gguf
