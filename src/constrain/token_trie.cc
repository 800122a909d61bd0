#include "constrain/token_trie.h"

#include <algorithm>
#include <numeric>

namespace herd::constrain {
namespace {

constexpr std::size_t kLongestText = 1024;  // longer ones can do without

std::size_t common_prefix(const std::string& a, const std::string& b) {
  const std::size_t most = std::min(a.size(), b.size());
  std::size_t n = 0;
  while (n < most && a[n] == b[n]) ++n;
  return n;
}

}  // namespace

TokenTrie::TokenTrie(std::vector<std::string> texts, std::vector<TokenId> ends)
    : texts_(std::move(texts)), ends_(std::move(ends)) {
  for (std::string& text : texts_)
    if (text.size() > kLongestText) text.clear();
  std::vector<TokenId> order(texts_.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](TokenId id) -> const std::string& { return text(id); });
  std::vector<std::uint32_t> open;  // the nodes from the root to the last one
  static const std::string kNone;
  const std::string* before = &kNone;
  for (const TokenId id : order) {
    const std::string& now = text(id);
    if (now.empty()) continue;
    const std::size_t shared = common_prefix(*before, now);
    for (; open.size() > shared; open.pop_back())
      nodes_[open.back()].skip = static_cast<std::uint32_t>(nodes_.size());
    for (std::size_t i = shared; i < now.size(); ++i) {
      open.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<std::uint32_t>(tokens_.size()),
                        static_cast<std::uint16_t>(i + 1), static_cast<std::uint8_t>(now[i])});
    }
    tokens_.push_back(id);
    longest_ = std::max(longest_, now.size());
    if (now.size() == 1) alphabet_[static_cast<std::uint8_t>(now[0])] = true;
    before = &now;
  }
  const auto end = static_cast<std::uint32_t>(nodes_.size());
  for (const std::uint32_t node : open) nodes_[node].skip = end;
  nodes_.push_back({end, static_cast<std::uint32_t>(tokens_.size()), 0, 0});
}

}  // namespace herd::constrain
