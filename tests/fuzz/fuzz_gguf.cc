// Any bytes into the GGUF parser, its typed getters and what reads a model or a tokeniser out of
// it: a value or an error, nothing else. Once as they are, once with zeros behind them as tensor
// data.
#include "fuzz.h"

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "gguf/gguf.h"
#include "gguf/inspect.h"
#include "model/loader.h"
#include "model/model.h"
#include "token/tokenizer.h"

namespace herd::fuzz {
namespace {

void read_metadata(const gguf::File& file) {
  constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
  constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
  for (const gguf::KeyValue& entry : file.metadata()) {
    check(file.find(entry.key) == &entry.value);
    (void)file.get_int(entry.key, kMin, kMax);
    (void)file.get_real(entry.key);
    (void)file.get_bool(entry.key);
    (void)file.get_string(entry.key);
    (void)file.get_strings(entry.key);
    (void)file.get_floats(entry.key);
    (void)file.get_ints(entry.key, -1, 1 << 20);
    check(gguf::summarize(entry.value, 8).find('\n') == std::string::npos);
    check(!gguf::to_json(entry.value).empty());
  }
}

void read_tensors(const gguf::File& file) {
  for (const gguf::TensorInfo& tensor : file.tensors()) {
    std::byte last{};
    check(file.find_tensor(tensor.name) == &tensor && tensor.bytes > 0 && tensor.rows() > 0);
    check(file.read(tensor, tensor.bytes - 1, std::span(&last, 1)).ok());
  }
}

void read_model(const gguf::File& file) {
  const auto config = read_config(file);
  if (!config) return check(config.error());
  const std::vector<TensorSpec> table = tensor_table(*config);
  check(!table.empty());
  const Status status = check_tensors(file, table);
  if (!status.ok()) check(status.error());
}

void read_tokenizer(const gguf::File& file) {
  const auto tokenizer = Tokenizer::from_gguf(file);
  if (!tokenizer) return check(tokenizer.error());
  const auto ids = (*tokenizer)->encode(" Hello  w\u00f6rld<s>\xff\n", {.add_bos = true});
  check((*tokenizer)->decode(ids, true).ok());
}

void read(std::span<const std::byte> bytes) {
  const Result<gguf::File> file = gguf::parse(bytes);
  if (!file) return check(file.error());
  read_metadata(*file);
  read_tensors(*file);
  read_model(*file);
  read_tokenizer(*file);
}

}  // namespace
}  // namespace herd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static std::vector<std::byte> padded(1 << 20);
  const auto bytes = std::as_bytes(std::span(data, size));
  herd::fuzz::read(bytes);
  if (size >= padded.size()) return 0;
  std::copy(bytes.begin(), bytes.end(), padded.begin());
  herd::fuzz::read(padded);
  std::fill_n(padded.begin(), size, std::byte{});
  return 0;
}
