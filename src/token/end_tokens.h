// Which tokens end a text: by the ids a file gives, and by the names that models use for them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "herd/types.h"

namespace herd {

/// Keys below tokenizer.ggml. whose tokens end a text, beside eos_token_id.
inline constexpr std::array<std::string_view, 5> kEndIdKeys = {
    "eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"};

/// `ids` (entries below 0 are ignored) and the special tokens that have an end-of-text name,
/// sorted. Such a token counts as special if it is control or user-defined, or if the file has no
/// types at all; it becomes a control token in `types`. REQUIRES: types as long as tokens.
std::vector<TokenId> collect_end_tokens(std::span<const std::string> tokens, bool file_has_types,
                                        std::vector<TokenId> ids, std::span<std::int32_t> types);

}  // namespace herd
