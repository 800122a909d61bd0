// The checked contents of tokenizer.ggml.*: what every tokeniser is built from.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gguf/gguf.h"
#include "herd/status.h"
#include "herd/types.h"
#include "token/pretokenizer.h"

namespace herd {

/// GGUF's token types.
enum TokenType : std::int32_t {
  kTypeUndefined = 0,
  kTypeNormal = 1,
  kTypeUnknown = 2,
  kTypeControl = 3,
  kTypeUserDefined = 4,
  kTypeUnused = 5,
  kTypeByte = 6,
};

enum class VocabularyKind { spm, bpe };

struct Vocabulary {
  VocabularyKind kind = VocabularyKind::spm;
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;                  // as long as tokens
  std::vector<float> scores;                        // SPM; as long as tokens, no NaN
  std::vector<std::pair<TokenId, TokenId>> merges;  // BPE, best first
  std::vector<TokenId> merged;                      // BPE, what each merge becomes
  const PreTokenizer* pre = nullptr;                // BPE
  TokenId bos = -1, eos = -1, unknown = -1;
  std::vector<TokenId> end_ids;  // sorted
  bool add_bos = false;
  bool add_space_prefix = false;
  std::string chat_template;
};

/// Errors: not_found, corrupt, unsupported; they name the key, the value and what is allowed.
Result<Vocabulary> read_vocabulary(const gguf::File& file);

/// The byte that "<0x0A>" stands for, or -1.
int parse_byte_token(std::string_view token);

}  // namespace herd
