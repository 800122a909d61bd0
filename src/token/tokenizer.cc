#include "token/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "token/encoders.h"
#include "token/vocabulary.h"

namespace herd {

Tokenizer::Tokenizer(Vocabulary&& v)
    : tokens_(std::move(v.tokens)),
      types_(std::move(v.types)),
      end_ids_(std::move(v.end_ids)),
      bos_(v.bos),
      eos_(v.eos),
      add_bos_(v.add_bos),
      add_space_prefix_(v.add_space_prefix),
      chat_template_(std::move(v.chat_template)) {}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_gguf(const gguf::File& file) {
  auto vocabulary = read_vocabulary(file);
  if (!vocabulary) return vocabulary.error();
  if (vocabulary->kind == VocabularyKind::spm)
    return make_spm_tokenizer(std::move(vocabulary).value());
  return make_bpe_tokenizer(std::move(vocabulary).value());
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  bool at_start = true;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size())
      return Error{Code::out_of_range,
                   fmt::format("ids[{}] is {}; the vocabulary's ids are 0 to {}", i, ids[i],
                               vocab_size() - 1)};
    text += next_piece(ids[i], special, at_start);
  }
  return text;
}

std::string Tokenizer::next_piece(TokenId id, bool special, bool& at_start) const {
  std::string text = piece(id, special);
  if (!at_start || text.empty()) return text;
  at_start = false;
  const bool marked = token(id).starts_with("\xE2\x96\x81");  // not the byte token <0x20>
  if (add_space_prefix_ && marked && text[0] == ' ') text.erase(0, 1);
  return text;
}

bool Tokenizer::is_control(TokenId id) const {
  return types_[static_cast<std::size_t>(id)] == kTypeControl;
}

bool Tokenizer::is_text(TokenId id) const {
  const std::int32_t type = types_[static_cast<std::size_t>(id)];
  return type != kTypeControl && type != kTypeUserDefined && type != kTypeUnknown;
}

bool Tokenizer::ends_text(TokenId id) const {
  return std::binary_search(end_ids_.begin(), end_ids_.end(), id);
}

}  // namespace herd
