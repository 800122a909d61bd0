#include "token/tokenizer.h"
#include "token/utf8.h"

namespace herd {

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool special, bool at_start)
    : tokenizer_(std::move(tokenizer)), special_(special), at_start_(at_start) {}

std::string Detokenizer::push(TokenId id) {
  held_ += tokenizer_->next_piece(id, special_, at_start_);
  std::string ready;
  std::size_t pos = 0;
  while (pos < held_.size()) {
    const utf8::CodePoint point = utf8::decode(held_, pos);
    if (point.truncated) break;
    if (point.valid)
      ready.append(held_, pos, point.bytes);
    else
      utf8::append(ready, utf8::kReplacement);
    pos += point.bytes;
  }
  held_.erase(0, pos);
  return ready;
}

std::string Detokenizer::flush() {
  std::string ready;
  if (!held_.empty()) utf8::append(ready, utf8::kReplacement);  // one unfinished character
  held_.clear();
  return ready;
}

}  // namespace herd
