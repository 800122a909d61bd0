// Byte-level BPE ("gpt2"): text is split into words, a word's bytes are merged by rank.
#include <array>

#include "token/encoders.h"
#include "token/merges.h"
#include "token/special_tokens.h"
#include "token/utf8.h"
#include "token/word_table.h"

namespace herd {
namespace {

constexpr std::uint32_t kNone = PairTable::kNone;

/// GPT-2's spelling of bytes: printable Latin-1 as itself, the others from U+0100 on, in order.
struct ByteAlphabet {
  std::array<char32_t, 256> letter{};
  std::array<int, 512> byte{};  // -1: not in the alphabet

  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      const char32_t c = printable ? static_cast<char32_t>(b) : next++;
      letter[static_cast<std::size_t>(b)] = c;
      byte[c] = b;
    }
  }

  /// False if some character is not in the alphabet.
  bool decode(std::string_view token, std::string& bytes) const {
    for (std::size_t pos = 0; pos < token.size();) {
      const utf8::CodePoint point = utf8::decode(token, pos);
      if (!point.valid || point.value >= byte.size() || byte[point.value] < 0) return false;
      bytes.push_back(static_cast<char>(byte[point.value]));
      pos += point.bytes;
    }
    return true;
  }
};

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(Vocabulary&& v)
      : Tokenizer(std::move(v)),
        pre_(*v.pre),
        pieces_(tokens_.size()),
        merges_(v.merges.size()),
        words_(tokens_.size()) {
    for (std::size_t i = 0; i < v.merges.size(); ++i)
      merges_.insert(static_cast<std::uint32_t>(v.merges[i].first),
                     static_cast<std::uint32_t>(v.merges[i].second),
                     {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(v.merged[i])});
    byte_ids_.fill(kNone);
    fill_pieces();
    fill_words();
  }

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<TokenId> ids;
    ids.reserve(text.size() / 4 + 1);
    if (options.add_bos && bos_ >= 0) ids.push_back(bos_);
    MergeBuffer buffer;
    auto on_text = [&](std::string_view part) {
      pre_.split(part, [&](std::string_view word) { encode_word(word, buffer, ids); });
    };
    partition(text, options.parse_special ? specials_ : user_defined_, on_text,
              [&](TokenId id) { ids.push_back(id); });
    return ids;
  }

  std::string piece(TokenId id, bool special) const override {
    const std::int32_t type = types_[static_cast<std::size_t>(id)];
    if ((type == kTypeControl || type == kTypeUnknown) && !special) return {};
    return pieces_[static_cast<std::size_t>(id)];
  }

 private:
  static bool is_plain(std::int32_t type) {
    return type == kTypeNormal || type == kTypeUndefined || type == kTypeUnused;
  }

  void fill_pieces() {
    const ByteAlphabet alphabet;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const auto id = static_cast<TokenId>(i);
      std::string& piece = pieces_[i];
      if (types_[i] == kTypeByte) {
        piece.assign(1, static_cast<char>(parse_byte_token(tokens_[i])));
      } else if (!is_plain(types_[i])) {
        piece = tokens_[i];
        specials_.add(tokens_[i], id);
        if (types_[i] == kTypeUserDefined) user_defined_.add(tokens_[i], id);
      } else if (!alphabet.decode(tokens_[i], piece)) {
        piece = tokens_[i];
      } else if (piece.size() == 1) {
        byte_ids_[static_cast<std::uint8_t>(piece[0])] = static_cast<std::uint32_t>(i);
      }
    }
  }

  /// Words that need no merging: all tokens where the pre-tokeniser says so, else those that their
  /// own bytes merge into, so that looking them up changes nothing but the time.
  void fill_words() {
    MergeBuffer buffer;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (!is_plain(types_[i]) || pieces_[i].empty()) continue;
      const auto id = static_cast<std::uint32_t>(i);
      if (!pre_.whole_words) {
        merge(pieces_[i], buffer);
        if (buffer.only() != id) continue;
      }
      words_.insert(pieces_[i], id);
    }
  }

  /// Bytes that have no token are left out, and their neighbours may merge: as the vocabulary's own
  /// library does it.
  void merge(std::string_view word, MergeBuffer& buffer) const {
    buffer.clear();
    for (std::size_t i = 0; i < word.size(); ++i) {
      const std::uint32_t id = byte_ids_[static_cast<std::uint8_t>(word[i])];
      if (id != kNone) buffer.push(id, i);
    }
    buffer.run(merges_);
  }

  void encode_word(std::string_view word, MergeBuffer& buffer, std::vector<TokenId>& ids) const {
    const std::uint32_t whole = words_.find(word);
    if (whole != kNone) return ids.push_back(static_cast<TokenId>(whole));
    while (!word.empty()) {
      const std::string_view part = word.substr(0, MergeBuffer::kMaxSymbols);
      merge(part, buffer);
      buffer.for_each(part.size(), [&](std::uint32_t id, std::size_t, std::size_t) {
        ids.push_back(static_cast<TokenId>(id));
      });
      word.remove_prefix(part.size());
    }
  }

  const PreTokenizer& pre_;
  std::vector<std::string> pieces_;  // the bytes each token stands for
  std::array<std::uint32_t, 256> byte_ids_{};
  PairTable merges_;
  WordTable words_;  // views of pieces_
  SpecialTokens specials_, user_defined_;
};

}  // namespace

std::shared_ptr<const Tokenizer> make_bpe_tokenizer(Vocabulary vocabulary) {
  return std::make_shared<BpeTokenizer>(std::move(vocabulary));
}

}  // namespace herd
