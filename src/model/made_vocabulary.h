// A vocabulary for models that were never trained: valid for any engine, of any size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "herd/types.h"

namespace herd {

struct SpecialToken {
  TokenId id;
  std::string_view text;
};

/// Byte-level BPE: the special tokens at their ids; elsewhere, in order, the 256 bytes and then
/// letter groups ("th", "Ġthe"), each made by one merge of the group before it and a letter.
struct MadeVocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;  // GGUF's token types: 1 normal, 3 control
  std::vector<std::string> merges;
};

/// REQUIRES: size >= 256 + special.size(); ids of `special` ascend and lie below size.
MadeVocabulary make_vocabulary(std::int32_t size, const std::vector<SpecialToken>& special);

}  // namespace herd
