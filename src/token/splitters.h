// The stages that pre-tokenisers are made of. Each says the regular expression it equals.
#pragma once

#include <cstddef>
#include <string_view>

namespace herd::split {

/// What differs between the word splitters of the Llama 3 kind.
struct WordRules {
  int digits = 1;             // \p{N}{1,digits}
  bool contractions = false;  // (?i:'s|'t|'re|'ve|'m|'ll|'d) as a piece of its own
  bool marks = false;         // words are [\p{L}\p{M}]+ instead of \p{L}+
  bool newline_tail = true;   // punctuation takes [\r\n]* with it
  bool slash_tail = false;    // and [\r\n/]*
  bool cased = false;         // words end before a capital that follows a small letter
  bool suffix = false;        // a cased word takes a contraction with it
};

// `contractions` | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,digits} | ` ?[^\s\p{L}\p{N}]+[\r\n]*`
// | \s*[\r\n]+ | \s+(?!\S) | \s+
std::size_t words(std::string_view text, std::size_t pos, const WordRules& rules);
template <WordRules rules>
std::size_t words(std::string_view text, std::size_t pos) {
  return words(text, pos, rules);
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::size_t gpt2(std::string_view text, std::size_t pos);

// DeepSeek V3: [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
// | ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
std::size_t deepseek_words(std::string_view text, std::size_t pos);

// These isolate their matches; what lies between is a piece too.
std::size_t each_number(std::string_view text, std::size_t pos);         // \p{N}
std::size_t three_numbers(std::string_view text, std::size_t pos);       // \p{N}{1,3}
std::size_t numbers(std::string_view text, std::size_t pos);             // \p{N}+
std::size_t ascii_triples(std::string_view text, std::size_t pos);       // [0-9][0-9][0-9]
std::size_t punctuation(std::string_view text, std::size_t pos);         // [\p{P}$+<=>^~|]+
std::size_t falcon_punctuation(std::string_view text, std::size_t pos);  // the same and `
std::size_t each_newline(std::string_view text, std::size_t pos);        // [\r\n]
std::size_t spaced_letters(std::string_view text, std::size_t pos);      // \s?\p{L}+
std::size_t spaced_punctuation(std::string_view text, std::size_t pos);  // \s?\p{P}+
std::size_t cjk_kana(std::string_view text, std::size_t pos);  // [一-龥\u3040-\u309f\u30a0-\u30ff]+
std::size_t cjk_hangul(std::string_view text, std::size_t pos);  // [一-龥\u0800-一가-\ud7ff]+

}  // namespace herd::split
