// A file's tokeniser without its weights: works on files that hold only a vocabulary.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "herd/status.h"
#include "herd/types.h"

namespace herd {

class Tokenizer;

/// Immutable; safe to share between threads.
class Vocabulary {
 public:
  /// Errors: those of opening the file; an unknown tokeniser, by name.
  static Result<Vocabulary> from_gguf(const std::string& path);

  std::vector<TokenId> encode(std::string_view text, bool add_bos, bool parse_special = true) const;
  /// Error: out_of_range for an unknown id.
  Result<std::string> decode(std::span<const TokenId> ids, bool special = false) const;
  /// The bytes of one token, control tokens spelt out. REQUIRES: 0 <= id < size().
  std::string piece(TokenId id) const;
  std::int32_t size() const;
  bool adds_bos() const;

 private:
  friend class Engine;
  explicit Vocabulary(std::shared_ptr<const Tokenizer> tokenizer);
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace herd
