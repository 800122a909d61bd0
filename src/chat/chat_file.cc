// A GGUF's chat template and the tokens it names, from the metadata alone.
#include <fmt/format.h>

#include "gguf/gguf.h"
#include "herd/chat.h"

namespace herd {
namespace {

/// The text of the token whose id is under `key`; "" where the file has no such key.
Result<std::string> token_text(const gguf::File& file, std::string_view key) {
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  if (file.find(key) == nullptr || file.find(kTokens) == nullptr) return std::string();
  const auto tokens = file.get_strings(kTokens);
  if (!tokens) return tokens.error();
  if (tokens->empty()) return std::string();
  const auto id = file.get_int(key, 0, static_cast<std::int64_t>(tokens->size()) - 1);
  if (!id) return id.error();
  return (*tokens)[static_cast<std::size_t>(*id)];
}

Result<ChatFile> read(const gguf::File& file) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  ChatFile out;
  const auto text = file.get_string(kKey);
  if (!text) return text.error();
  out.chat_template = *text;
  auto bos = token_text(file, "tokenizer.ggml.bos_token_id");
  if (!bos) return bos.error();
  auto eos = token_text(file, "tokenizer.ggml.eos_token_id");
  if (!eos) return eos.error();
  out.bos_token = *std::move(bos);
  out.eos_token = *std::move(eos);
  return out;
}

}  // namespace

Result<ChatFile> read_chat_file(const std::string& path) {
  const auto file = gguf::open(path);
  if (!file) return file.error();
  auto out = read(*file);
  if (!out) return Error{out.error().code, path + ": " + out.error().message};
  return out;
}

}  // namespace herd
