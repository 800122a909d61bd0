// Finds control and user-defined tokens written out in a text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "herd/types.h"
#include "token/word_table.h"

namespace herd {

/// Immutable once filled. Holds views of the token texts.
class SpecialTokens {
 public:
  /// An empty text is ignored.
  void add(std::string_view text, TokenId id);

  struct Match {
    std::size_t begin = std::string_view::npos;  // npos: none
    std::size_t end = 0;
    TokenId id = -1;
  };
  /// The leftmost occurrence from `from` on; of several there, the longest.
  Match find(std::string_view text, std::size_t from) const;

 private:
  WordTable ids_;
  std::array<std::vector<std::size_t>, 256> lengths_;  // by first byte, longest first
};

/// Calls on_text(view) and on_token(id) for the parts of `text`, in order; no empty text.
template <class OnText, class OnToken>
void partition(std::string_view text, const SpecialTokens& specials, OnText&& on_text,
               OnToken&& on_token) {
  std::size_t pos = 0;
  while (pos < text.size()) {
    const SpecialTokens::Match match = specials.find(text, pos);
    const std::size_t end = match.id < 0 ? text.size() : match.begin;
    if (end > pos) on_text(text.substr(pos, end - pos));
    if (match.id < 0) return;
    on_token(match.id);
    pos = match.end;
  }
}

}  // namespace herd
