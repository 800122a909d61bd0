// SentencePiece BPE ("llama"): the text's characters are merged, best score first.
#include <algorithm>
#include <array>
#include <deque>
#include <functional>

#include "token/encoders.h"
#include "token/merges.h"
#include "token/special_tokens.h"
#include "token/utf8.h"
#include "token/word_table.h"

namespace herd {
namespace {

constexpr std::uint32_t kNone = PairTable::kNone;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, a space in the vocabulary

/// Inside, spaces are spaces: the vocabulary's marks are turned back once, at load.
std::string unmark(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t pos = 0; pos < text.size();) {
    const std::size_t mark = std::min(text.find(kSpaceMark, pos), text.size());
    out.append(text, pos, mark - pos);
    if (mark < text.size()) out.push_back(' ');
    pos = mark + kSpaceMark.size();
  }
  return out;
}

class SpmTokenizer final : public Tokenizer {
 public:
  explicit SpmTokenizer(Vocabulary&& v)
      : Tokenizer(std::move(v)),
        unknown_(v.unknown),
        pieces_(tokens_.size()),
        symbols_(tokens_.size()),
        pairs_(tokens_.size() * 4),
        words_(tokens_.size()) {
    byte_ids_.fill(-1);
    fill_pieces();
    fill_pairs(ranks_of(v.scores));
    fill_words();
  }

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override {
    Output out;
    out.ids.reserve(text.size() / 3 + 1);
    if (options.add_bos && bos_ >= 0) out.ids.push_back(bos_);
    MergeBuffer buffer;
    bool after_special = true;
    auto on_text = [&](std::string_view part) {
      std::string plain = unmark(part);
      if (add_space_prefix_ && after_special) plain.insert(plain.begin(), ' ');
      after_special = false;
      encode_text(plain, buffer, out);
    };
    partition(text, options.parse_special ? specials_ : user_defined_, on_text, [&](TokenId id) {
      out.ids.push_back(id);
      out.last_unknown = false;
      after_special = true;
    });
    return std::move(out.ids);
  }

  std::string piece(TokenId id, bool special) const override {
    const std::int32_t type = types_[static_cast<std::size_t>(id)];
    if ((type == kTypeControl || type == kTypeUnknown) && !special) return {};
    return pieces_[static_cast<std::size_t>(id)];
  }

 private:
  struct Output {
    std::vector<TokenId> ids;
    bool last_unknown = false;  // neighbouring unknown characters share one token
  };

  bool can_merge(std::size_t id) const {
    const std::int32_t type = types_[id];
    return (type == kTypeNormal || type == kTypeUndefined || type == kTypeUnused) &&
           !tokens_[id].empty() && tokens_[id].find(' ') == std::string::npos;
  }

  void fill_pieces() {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const auto id = static_cast<TokenId>(i);
      const int byte = types_[i] == kTypeByte ? parse_byte_token(tokens_[i]) : -1;
      if (byte >= 0) {
        pieces_[i].assign(1, static_cast<char>(byte));
        byte_ids_[static_cast<std::size_t>(byte)] = id;
      } else if (types_[i] == kTypeControl || types_[i] == kTypeUnknown ||
                 types_[i] == kTypeUserDefined) {
        pieces_[i] = tokens_[i];
        specials_.add(tokens_[i], id);
        if (types_[i] == kTypeUserDefined) user_defined_.add(tokens_[i], id);
      } else {
        pieces_[i] = unmark(tokens_[i]);
        if (can_merge(i)) symbols_.insert(pieces_[i], static_cast<std::uint32_t>(i));
      }
    }
  }

  /// Rank 0 for the best score; equal scores share a rank, so that ties fall to the leftmost.
  static std::vector<std::uint32_t> ranks_of(const std::vector<float>& scores) {
    std::vector<float> order = scores;
    std::sort(order.begin(), order.end(), std::greater<float>());
    order.erase(std::unique(order.begin(), order.end()), order.end());
    std::vector<std::uint32_t> ranks;
    ranks.reserve(scores.size());
    for (const float score : scores)
      ranks.push_back(static_cast<std::uint32_t>(
          std::lower_bound(order.begin(), order.end(), score, std::greater<float>()) -
          order.begin()));
    return ranks;
  }

  /// Every way to cut a token into two symbols: tokens, or characters that only occur in tokens.
  void fill_pairs(const std::vector<std::uint32_t>& ranks) {
    std::vector<bool> lengths = token_lengths();
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (!can_merge(i)) continue;
      const std::string_view text = pieces_[i];
      const PairTable::Merge merge{ranks[i], static_cast<std::uint32_t>(i)};
      for (std::size_t cut = 0; cut < text.size();) {
        const std::size_t bytes = utf8::decode(text, cut).bytes;
        add_character(text.substr(cut, bytes));
        if (cut > 0 && text[cut] == ' ' && text[cut - 1] != ' ') spaces_only_lead_ = false;
        if (cut > 0 && lengths[cut] && lengths[text.size() - cut])
          add_pair(symbol(text.substr(0, cut)), symbol(text.substr(cut)), merge);
        cut += bytes;
      }
    }
  }

  void add_pair(std::uint32_t left, std::uint32_t right, PairTable::Merge merge) {
    if (left != kNone && right != kNone) pairs_.insert(left, right, merge);
  }

  /// lengths[n]: some token has n bytes. Spares hashing parts that cannot be symbols.
  std::vector<bool> token_lengths() const {
    std::size_t longest = 4;
    for (const std::string& piece : pieces_) longest = std::max(longest, piece.size());
    std::vector<bool> lengths(longest + 1);
    for (std::size_t n = 1; n <= 4; ++n) lengths[n] = true;  // single characters
    for (std::size_t i = 0; i < pieces_.size(); ++i)
      if (can_merge(i)) lengths[pieces_[i].size()] = true;
    return lengths;
  }

  void add_character(std::string_view character) {
    if (symbols_.find(character) != kNone) return;
    const std::string& kept = characters_.emplace_back(character);
    symbols_.insert(kept, static_cast<std::uint32_t>(tokens_.size() + characters_.size() - 1));
  }

  std::uint32_t symbol(std::string_view text) const { return symbols_.find(text); }

  /// Words whose characters merge into the token that spells them: looking these up saves time and
  /// changes nothing.
  void fill_words() {
    MergeBuffer buffer;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (!can_merge(i)) continue;
      merge(pieces_[i], buffer);
      if (buffer.only() == i) words_.insert(pieces_[i], static_cast<std::uint32_t>(i));
    }
  }

  void merge(std::string_view text, MergeBuffer& buffer) const {
    buffer.clear();
    for (std::size_t pos = 0; pos < text.size();) {
      const std::size_t bytes = utf8::decode(text, pos).bytes;
      buffer.push(symbol(text.substr(pos, bytes)), pos);
      pos += bytes;
    }
    buffer.run(pairs_);
  }

  /// Where no token holds a space after something else, nothing merges across the start of a word,
  /// and words can be merged one by one.
  std::size_t unit_end(std::string_view text, std::size_t pos) const {
    const std::size_t limit = std::min(text.size() - pos, MergeBuffer::kMaxSymbols);
    if (!spaces_only_lead_) return pos + limit;
    std::size_t end = pos + 1;
    while (end < pos + limit && (text[end] != ' ' || text[end - 1] == ' ')) ++end;
    return end;
  }

  void encode_text(std::string_view text, MergeBuffer& buffer, Output& out) const {
    for (std::size_t pos = 0; pos < text.size();) {
      const std::size_t end = unit_end(text, pos);
      encode_unit(text.substr(pos, end - pos), buffer, out);
      pos = end;
    }
  }

  void encode_unit(std::string_view unit, MergeBuffer& buffer, Output& out) const {
    const std::uint32_t whole = words_.find(unit);
    if (whole != kNone) {
      out.ids.push_back(static_cast<TokenId>(whole));
      out.last_unknown = false;
      return;
    }
    merge(unit, buffer);
    buffer.for_each(unit.size(), [&](std::uint32_t id, std::size_t begin, std::size_t end) {
      if (id >= tokens_.size()) return spell(unit.substr(begin, end - begin), out);
      out.ids.push_back(static_cast<TokenId>(id));
      out.last_unknown = false;
    });
  }

  /// A character that is no token: its bytes, or the unknown token.
  void spell(std::string_view character, Output& out) const {
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<std::uint8_t>(c)]; };
    const bool spelt =
        std::all_of(character.begin(), character.end(), [&](char c) { return byte_id(c) >= 0; });
    if (spelt) {
      for (const char c : character) out.ids.push_back(byte_id(c));
    } else if (unknown_ >= 0 && !out.last_unknown) {
      out.ids.push_back(unknown_);
    }
    out.last_unknown = !spelt;
  }

  TokenId unknown_;
  std::vector<std::string> pieces_;     // the text each token stands for
  std::deque<std::string> characters_;  // symbols from tokens_.size() on
  std::array<TokenId, 256> byte_ids_{};
  WordTable symbols_;  // views of pieces_ and characters_
  PairTable pairs_;
  WordTable words_;  // views of pieces_
  SpecialTokens specials_, user_defined_;
  bool spaces_only_lead_ = true;
};

}  // namespace

std::shared_ptr<const Tokenizer> make_spm_tokenizer(Vocabulary vocabulary) {
  return std::make_shared<SpmTokenizer>(std::move(vocabulary));
}

}  // namespace herd
