// Splits text into the words that byte-level BPE merges within: hand-written equals of the regular
// expressions that GGUF names in tokenizer.ggml.pre. Linear time.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace herd {

/// The end of the piece that starts at `pos`. REQUIRES: pos < text.size(); returns > pos.
using Splitter = std::size_t (*)(std::string_view text, std::size_t pos);

struct PreTokenizer {
  std::string_view name;
  std::array<Splitter, 5> stages{};  // each splits the pieces of the one before; nullptr ends
  bool whole_words = false;          // a word that is a token is taken at once ("ignore_merges")
  bool add_bos = false;              // what the file means when it does not say

  /// Calls sink(view) for every piece of `text`, in order; together they are `text`.
  template <class Sink>
  void split(std::string_view text, Sink&& sink, std::size_t stage = 0) const {
    if (stage == stages.size() || stages[stage] == nullptr) return sink(text);
    for (std::size_t pos = 0; pos < text.size();) {
      const std::size_t end = stages[stage](text, pos);
      split(text.substr(pos, end - pos), sink, stage + 1);
      pos = end;
    }
  }
};

/// nullptr if there is none of that name.
const PreTokenizer* find_pretokenizer(std::string_view name);
/// "default, gpt-2, ..." for messages.
std::string known_pretokenizers();

}  // namespace herd
