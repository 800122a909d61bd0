// Text to token ids and back, for SentencePiece ("llama") and byte-level BPE ("gpt2") vocabularies.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "herd/status.h"
#include "herd/types.h"

namespace herd {

namespace gguf {
class File;
}
struct Vocabulary;

struct EncodeOptions {
  bool add_bos = false;       // put BOS first (callers decide; see Tokenizer::adds_bos())
  bool parse_special = true;  // control and user-defined tokens in the text become their ids
};

/// Immutable after creation; safe to share between threads.
class Tokenizer {
 public:
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  virtual ~Tokenizer() = default;

  /// Reads tokenizer.ggml.*. Errors name the key, its value and what is allowed: unknown model or
  /// pre-tokeniser (unsupported), ids out of range or wrong array types or lengths (corrupt).
  static Result<std::shared_ptr<const Tokenizer>> from_gguf(const gguf::File& file);

  /// Any bytes; invalid UTF-8 is tokenised byte by byte, never refused. Bytes that no token of the
  /// vocabulary can spell become its unknown token (SentencePiece) or nothing (byte-level BPE).
  virtual std::vector<TokenId> encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;

  /// The bytes a token stands for in running text; "" for control tokens unless `special`.
  /// REQUIRES: 0 <= id < vocab_size().
  virtual std::string piece(TokenId id, bool special = false) const = 0;

  /// The text of `ids`, byte for byte (not checked to be UTF-8); a SentencePiece space prefix at
  /// the very start is dropped if the file adds one. Error: out_of_range for an unknown id.
  Result<std::string> decode(std::span<const TokenId> ids, bool special = false) const;

  std::int32_t vocab_size() const { return static_cast<std::int32_t>(tokens_.size()); }
  /// The vocabulary's own spelling of a token ("Ġthe", "▁the", "<0x0A>").
  std::string_view token(TokenId id) const { return tokens_[static_cast<std::size_t>(id)]; }
  bool is_control(TokenId id) const;
  /// Neither control nor user-defined nor the unknown token: text that a model spells.
  bool is_text(TokenId id) const;
  TokenId bos() const { return bos_; }  // -1: none
  TokenId eos() const { return eos_; }  // -1: none
  /// Ids that end a text: eos, eot, and tokens such as <|im_end|>, <|eot_id|>, <|end|>.
  bool ends_text(TokenId id) const;
  bool adds_bos() const { return add_bos_; }             // the file wants BOS in front of a prompt
  bool adds_space() const { return add_space_prefix_; }  // SPM only
  std::string_view chat_template() const { return chat_template_; }

 protected:
  explicit Tokenizer(Vocabulary&& vocabulary);
  /// The piece; the first that has any text loses the space prefix that encode() put there.
  std::string next_piece(TokenId id, bool special, bool& at_start) const;
  friend class Detokenizer;

  std::vector<std::string> tokens_;
  std::vector<std::int32_t> types_;  // GGUF's token types; 3 control, 4 user-defined, 6 byte
  std::vector<TokenId> end_ids_;     // sorted
  TokenId bos_ = -1, eos_ = -1;
  bool add_bos_ = false, add_space_prefix_ = false;
  std::string chat_template_;
};

/// Turns a stream of ids into text that is whole UTF-8 at every point: bytes of an unfinished
/// character are held back until it is complete or can no longer become one (then U+FFFD).
/// One per sequence; not thread-safe.
class Detokenizer {
 public:
  /// `at_start`: the first text begins a document, so its SentencePiece space prefix is dropped;
  /// false where the ids go on from others, as generated ones do after a prompt.
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool special = false,
                       bool at_start = true);
  /// The text that became final with this id; may be "". REQUIRES: a valid id.
  std::string push(TokenId id);
  /// What is still held back, invalid bytes as U+FFFD.
  std::string flush();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool special_;
  bool at_start_;
  std::string held_;  // at most 3 bytes between calls
};

}  // namespace herd
