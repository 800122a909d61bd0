#include "model/made_vocabulary.h"

namespace herd {
namespace {

void append_utf8(std::string& out, int code_point) {  // below 0x800 here
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
    return;
  }
  out += static_cast<char>(0xc0 | code_point >> 6);
  out += static_cast<char>(0x80 | (code_point & 63));
}
/// GPT-2's alphabet: printable Latin-1 stands for itself, the others for 256 and up in order.
std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    append_utf8(tokens.emplace_back(), printable ? byte : next++);
  }
  return tokens;
}

/// Letter groups without end: every group so far, oldest first, with each letter after it.
class LetterGroups {
 public:
  explicit LetterGroups(const std::string& space) {
    groups_.push_back(space);
    for (char c = 'a'; c <= 'z'; ++c) groups_.emplace_back(1, c);
  }
  /// The next group; `merge` is the merge that makes it.
  std::string next(std::string& merge) {
    const std::string letter(1, static_cast<char>('a' + letter_));
    merge = groups_[parent_] + " " + letter;
    groups_.push_back(groups_[parent_] + letter);
    letter_ = (letter_ + 1) % 26;
    if (letter_ == 0) ++parent_;
    return groups_.back();
  }

 private:
  std::vector<std::string> groups_;
  std::size_t parent_ = 0;
  int letter_ = 0;
};

}  // namespace

MadeVocabulary make_vocabulary(std::int32_t size, const std::vector<SpecialToken>& special) {
  const std::vector<std::string> bytes = byte_tokens();
  LetterGroups groups(bytes[' ']);
  MadeVocabulary v;
  std::size_t next_special = 0, next_byte = 0;
  for (TokenId id = 0; id < size; ++id) {
    const bool is_special = next_special < special.size() && special[next_special].id == id;
    v.types.push_back(is_special ? 3 : 1);
    if (is_special) {
      v.tokens.emplace_back(special[next_special++].text);
    } else if (next_byte < bytes.size()) {
      v.tokens.push_back(bytes[next_byte++]);
    } else {
      v.tokens.push_back(groups.next(v.merges.emplace_back()));
    }
  }
  return v;
}

}  // namespace herd
