#include "token/special_tokens.h"

#include <algorithm>
#include <functional>

namespace herd {

void SpecialTokens::add(std::string_view text, TokenId id) {
  if (text.empty() || !ids_.insert(text, static_cast<std::uint32_t>(id))) return;
  std::vector<std::size_t>& lengths = lengths_[static_cast<std::uint8_t>(text[0])];
  const auto at =
      std::lower_bound(lengths.begin(), lengths.end(), text.size(), std::greater<std::size_t>());
  if (at == lengths.end() || *at != text.size()) lengths.insert(at, text.size());
}

SpecialTokens::Match SpecialTokens::find(std::string_view text, std::size_t from) const {
  for (std::size_t pos = from; pos < text.size(); ++pos) {
    for (const std::size_t length : lengths_[static_cast<std::uint8_t>(text[pos])]) {
      if (length > text.size() - pos) continue;
      const std::uint32_t id = ids_.find(text.substr(pos, length));
      if (id != WordTable::kNone) return {pos, pos + length, static_cast<TokenId>(id)};
    }
  }
  return {};
}

}  // namespace herd
