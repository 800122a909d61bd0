// Any bytes into the GGUF parser and its typed getters: a File or an error, nothing else.
#include <cstddef>
#include <cstdint>
#include <limits>

#include "gguf/gguf.h"
#include "gguf/inspect.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace herd;
  const Result<gguf::File> file = gguf::parse(std::as_bytes(std::span(data, size)));
  if (!file) return file.error().message.empty() ? __builtin_trap(), 1 : 0;
  constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
  constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
  for (const gguf::KeyValue& entry : file->metadata()) {
    if (file->find(entry.key) != &entry.value) __builtin_trap();
    (void)file->get_int(entry.key, kMin, kMax);
    (void)file->get_real(entry.key);
    (void)file->get_bool(entry.key);
    (void)file->get_string(entry.key);
    (void)file->get_strings(entry.key);
    (void)file->get_floats(entry.key);
    (void)file->get_ints(entry.key, -1, 1 << 20);
    (void)gguf::summarize(entry.value, 8);
  }
  for (const gguf::TensorInfo& tensor : file->tensors()) {
    std::byte last{};
    if (file->find_tensor(tensor.name) != &tensor || tensor.bytes == 0) __builtin_trap();
    if (!file->read(tensor, tensor.bytes - 1, std::span(&last, 1)).ok()) __builtin_trap();
    if (tensor.rows() < 1) __builtin_trap();
  }
  return 0;
}
