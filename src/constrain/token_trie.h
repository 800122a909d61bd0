// A vocabulary's texts as a tree by their bytes, so that tokens that begin alike are tried
// together.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "constrain/builder.h"
#include "herd/types.h"

namespace herd::constrain {

/// Immutable.
class TokenTrie {
 public:
  /// texts[id]: the bytes of a token; empty: it is never allowed as text. `ends`: ids that end an
  /// answer.
  TokenTrie(std::vector<std::string> texts, std::vector<TokenId> ends);

  struct Node {
    std::uint32_t skip = 0;         // the next node outside this one's subtree
    std::uint32_t first_token = 0;  // of tokens(), up to the next node's
    std::uint16_t depth = 0;        // bytes so far, at least 1
    std::uint8_t byte = 0;
  };
  /// In preorder; the last only ends the ranges.
  const std::vector<Node>& nodes() const { return nodes_; }
  std::span<const TokenId> tokens_of(std::size_t node) const {
    return std::span(tokens_).subspan(nodes_[node].first_token,
                                      nodes_[node + 1].first_token - nodes_[node].first_token);
  }
  const std::string& text(TokenId id) const { return texts_[static_cast<std::size_t>(id)]; }
  std::int32_t size() const { return static_cast<std::int32_t>(texts_.size()); }
  std::size_t longest() const { return longest_; }
  const std::vector<TokenId>& ends() const { return ends_; }
  /// Bytes that are a token by themselves.
  const Alphabet& alphabet() const { return alphabet_; }

 private:
  std::vector<std::string> texts_;  // [vocab]; none longer than kLongestText
  std::vector<TokenId> ends_;
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;
  std::size_t longest_ = 0;
  Alphabet alphabet_;
};

}  // namespace herd::constrain
