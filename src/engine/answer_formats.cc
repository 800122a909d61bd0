#include "engine/answer_formats.h"

namespace herd {
namespace {

std::unique_ptr<constrain::Grammars> make_grammars(const Tokenizer& tokenizer, std::int32_t vocab) {
  std::vector<std::string> texts(static_cast<std::size_t>(vocab));
  std::vector<TokenId> ends;
  for (TokenId id = 0; id < std::min(vocab, tokenizer.vocab_size()); ++id) {
    if (tokenizer.ends_text(id)) ends.push_back(id);
    if (tokenizer.is_text(id)) texts[static_cast<std::size_t>(id)] = tokenizer.piece(id);
  }
  return std::make_unique<constrain::Grammars>(
      std::make_shared<constrain::TokenTrie>(std::move(texts), std::move(ends)));
}

}  // namespace

Result<std::shared_ptr<constrain::Grammar>> AnswerFormats::grammar(const AnswerFormat& format,
                                                                   const Tokenizer& tokenizer,
                                                                   std::int32_t vocab) {
  if (format.kind == AnswerFormat::Kind::text) return std::shared_ptr<constrain::Grammar>();
  std::call_once(once_, [&] { grammars_ = make_grammars(tokenizer, vocab); });
  static const std::string kAnyObject = R"({"type": "object"})";
  return grammars_->get(format.kind == AnswerFormat::Kind::json_object ? kAnyObject
                                                                       : format.schema);
}

}  // namespace herd
