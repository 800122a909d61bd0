// A long text as sequences that fit a model: what perplexity and fidelity are measured over.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "herd/llama.h"

namespace cli {

struct Windows {
  std::vector<std::vector<herd::TokenId>> ids;  // each at least 2 tokens, at most the context
  std::int32_t context = 0;
  std::int64_t scored() const;  // tokens that have something before them
};

/// The file's text, encoded without BOS, cut into windows one after the other. Where the model's
/// vocabulary adds BOS, each begins with it. `context` 0: 512, or what the model was trained for if
/// that is less. `most` above 0: no more tokens of the text than so many. Errors: those of the file
/// and of the model's header; out_of_range (context); invalid_argument (a text too short to score).
herd::Result<Windows> cut_windows(const std::string& model, const std::string& text_path,
                                  std::int32_t context, std::int64_t most);

}  // namespace cli
