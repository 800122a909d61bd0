// GGUF bytes put together by hand, right or wrong, for the tests of the parser.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"

namespace herd::gguf::craft {

using Bytes = std::vector<std::byte>;

/// Appends raw little-endian pieces.
struct Build {
  Bytes bytes;
  template <class T>
  Build& raw(T value) {
    const auto* first = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), first, first + sizeof value);
    return *this;
  }
  Build& u8(std::uint8_t v) { return raw(v); }
  Build& u32(std::uint32_t v) { return raw(v); }
  Build& u64(std::uint64_t v) { return raw(v); }
  Build& text(std::string_view s) {
    u64(s.size());
    for (const char c : s) raw(c);
    return *this;
  }
  Build& header(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    return u32(0x46554747).u32(version).u64(tensors).u64(keys);
  }
  Build& key(std::string_view name, ValueType type) {
    return text(name).u32(static_cast<std::uint32_t>(type));
  }
  Build& array(ValueType element, std::uint64_t count) {
    return u32(static_cast<std::uint32_t>(element)).u64(count);
  }
  Build& tensor(std::string_view name, std::vector<std::uint64_t> shape, std::uint32_t type,
                std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t size : shape) u64(size);
    return u32(type).u64(offset);
  }
  /// Pads to `alignment`, then adds `size` zero bytes of tensor data.
  Build& data(std::size_t size, std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment + size);
    return *this;
  }
  Build& zeros(std::size_t size) {
    bytes.resize(bytes.size() + size);
    return *this;
  }
};

inline Bytes load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  Bytes bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}
inline void save(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
}

}  // namespace herd::gguf::craft
