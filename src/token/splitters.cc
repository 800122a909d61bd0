#include "token/splitters.h"

#include "token/unicode.h"

namespace herd::split {
namespace {

constexpr int kUnlimited = 0;

/// The end of the run of glyphs that `matches` accepts, at most `limit` of them.
template <class Matches>
std::size_t run(std::string_view text, std::size_t pos, Matches&& matches, int limit = kUnlimited) {
  for (int n = 0; pos < text.size() && (limit == kUnlimited || n < limit); ++n) {
    const Glyph glyph = look(text, pos);
    if (!matches(glyph)) break;
    pos += glyph.bytes;
  }
  return pos;
}

std::size_t run_of(std::string_view text, std::size_t pos, int mask, int limit = kUnlimited) {
  return run(
      text, pos, [mask](const Glyph& g) { return g.is(mask); }, limit);
}

/// A match at `pos`, or everything up to the next one. `match` returns `pos` where it fails, and
/// fails in constant time, so the whole text costs linear time.
template <class Match>
std::size_t isolate(std::string_view text, std::size_t pos, Match&& match) {
  const std::size_t end = match(pos);
  if (end > pos) return end;
  do pos += look(text, pos).bytes;
  while (pos < text.size() && match(pos) == pos);
  return pos;
}

template <class Matches>
std::size_t isolate_runs(std::string_view text, std::size_t pos, Matches&& matches,
                         int limit = kUnlimited) {
  return isolate(text, pos, [&](std::size_t at) { return run(text, at, matches, limit); });
}

/// Lower case of an ASCII letter; U+017F too folds to s, as in the regular expressions' (?i:).
char32_t fold(char32_t c) {
  if (c == 0x17F) return 's';
  return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/// The end of 's 't 're 've 'm 'll 'd at `pos`, or `pos`.
std::size_t contraction(std::string_view text, std::size_t pos, bool any_case) {
  if (pos >= text.size() || text[pos] != '\'') return pos;
  const Glyph first = look(text, pos + 1);
  const char32_t a = any_case ? fold(first.value) : first.value;
  const std::size_t after = pos + 1 + first.bytes;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return after;
  if (a != 'r' && a != 'v' && a != 'l') return pos;
  const Glyph second = look(text, after);
  const char32_t b = any_case ? fold(second.value) : second.value;
  return b == (a == 'l' ? U'l' : U'e') ? after + second.bytes : pos;
}

/// \s+(?!\S)|\s+ : a run of spaces leaves its last one to the word that follows.
std::size_t spaces(std::string_view text, std::size_t pos) {
  std::size_t last = pos, end = pos;
  for (Glyph glyph = look(text, end); glyph.is(kSpace); glyph = look(text, end)) {
    last = end;
    end += glyph.bytes;
  }
  return end == text.size() || last == pos ? end : last;
}

/// \s*[\r\n]+|\s+(?!\S)|\s+ : a run of spaces is cut after its last newline.
std::size_t spaces_and_newlines(std::string_view text, std::size_t pos) {
  std::size_t newline_end = pos, end = pos;
  for (Glyph glyph = look(text, end); glyph.is(kSpace); glyph = look(text, end)) {
    end += glyph.bytes;
    if (glyph.is(kNewline)) newline_end = end;
  }
  return newline_end > pos ? newline_end : spaces(text, pos);
}

constexpr int kUpperLike = kUpper | kUncased | kMark;  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
constexpr int kLowerLike = kLower | kUncased | kMark;  // [\p{Ll}\p{Lm}\p{Lo}\p{M}]

/// UPPER*LOWER+ with the regular expression's backtracking: where no small letter follows the run
/// of UPPER, the match ends at the last character of the run that is LOWER as well.
std::size_t capitals_then_small(std::string_view text, std::size_t pos) {
  std::size_t end = pos, last_both = pos;
  for (Glyph glyph = look(text, end); glyph.is(kUpperLike); glyph = look(text, end)) {
    end += glyph.bytes;
    if (glyph.is(kLowerLike)) last_both = end;
  }
  if (look(text, end).is(kLowerLike)) return run_of(text, end, kLowerLike);
  return last_both;
}

/// [^\r\n\p{L}\p{N}]?UPPER*LOWER+ | [^\r\n\p{L}\p{N}]?UPPER+LOWER*
std::size_t cased_word(std::string_view text, std::size_t pos) {
  const Glyph first = look(text, pos);
  const bool can_lead = !first.is(kNewline | kLetter | kNumber);
  const std::size_t inner = can_lead ? pos + first.bytes : pos;
  if (const std::size_t end = capitals_then_small(text, inner); end > inner) return end;
  if (can_lead) {  // a mark can lead, but may itself be the word
    if (const std::size_t end = capitals_then_small(text, pos); end > pos) return end;
  }
  const std::size_t capitals = run_of(text, inner, kUpperLike);
  return capitals > inner ? capitals : pos;
}

/// [^\r\n\p{L}\p{N}]?WORD+
std::size_t plain_word(std::string_view text, std::size_t pos, int word) {
  const Glyph first = look(text, pos);
  if (first.is(word)) return run_of(text, pos, word);
  if (first.is(kNewline | kLetter | kNumber)) return pos;
  const std::size_t end = run_of(text, pos + first.bytes, word);
  return end > pos + first.bytes ? end : pos;
}

/// ` ?[^\s\p{L}\p{N}]+` and the tail that the rules give it.
std::size_t other(std::string_view text, std::size_t pos, const WordRules& rules) {
  const int excluded = kSpace | kLetter | kNumber | (rules.marks ? kMark : 0);
  const std::size_t start = text[pos] == ' ' ? pos + 1 : pos;
  const std::size_t end = run(text, start, [&](const Glyph& g) { return !g.is(excluded); });
  if (end == start) return pos;
  if (!rules.newline_tail) return end;
  return run(text, end, [&](const Glyph& g) {
    return g.is(kNewline) || (rules.slash_tail && g.value == '/');
  });
}

bool in_range(const Glyph& g, char32_t low, char32_t high) {
  return g.value >= low && g.value <= high;
}

bool is_ascii_symbol(const Glyph& g, std::string_view set) {
  return g.value < 0x80 && set.find(static_cast<char>(g.value)) != std::string_view::npos;
}

}  // namespace

std::size_t words(std::string_view text, std::size_t pos, const WordRules& rules) {
  if (rules.contractions) {
    if (const std::size_t end = contraction(text, pos, true); end > pos) return end;
  }
  const std::size_t word = rules.cased
                               ? cased_word(text, pos)
                               : plain_word(text, pos, rules.marks ? kLetter | kMark : kLetter);
  if (word > pos) return rules.suffix ? contraction(text, word, true) : word;
  const Glyph first = look(text, pos);
  if (first.is(kNumber)) return run_of(text, pos, kNumber, rules.digits);
  if (const std::size_t end = other(text, pos, rules); end > pos) return end;
  return spaces_and_newlines(text, pos);
}

std::size_t gpt2(std::string_view text, std::size_t pos) {
  if (const std::size_t end = contraction(text, pos, false); end > pos) return end;
  const std::size_t start = text[pos] == ' ' && pos + 1 < text.size() ? pos + 1 : pos;
  const Glyph glyph = look(text, start);
  if (glyph.is(kSpace)) return spaces(text, pos);
  if (glyph.is(kLetter)) return run_of(text, start, kLetter);
  if (glyph.is(kNumber)) return run_of(text, start, kNumber);
  return run(text, start, [](const Glyph& g) { return !g.is(kSpace | kLetter | kNumber); });
}

namespace {

std::size_t match_deepseek_word(std::string_view text, std::size_t pos) {
  const Glyph first = look(text, pos);
  if (first.value < 0x80 && first.is(kPunct | kSymbol)) {
    const auto is_ascii_letter = [](const Glyph& g) { return g.value < 0x80 && g.is(kLetter); };
    const std::size_t end = run(text, pos + 1, is_ascii_letter);
    if (end > pos + 1) return end;
  }
  if (first.is(kLetter | kMark)) return run_of(text, pos, kLetter | kMark);
  if (!first.is(kNewline | kPunct | kSymbol)) {
    const std::size_t end = run_of(text, pos + first.bytes, kLetter | kMark);
    if (end > pos + first.bytes) return end;
  }
  const std::size_t start = first.value == ' ' ? pos + 1 : pos;
  const std::size_t end = run_of(text, start, kPunct | kSymbol);
  if (end > start) return run_of(text, end, kNewline);
  return first.is(kSpace) ? spaces_and_newlines(text, pos) : pos;
}

std::size_t match_spaced(std::string_view text, std::size_t pos, int mask) {
  const Glyph first = look(text, pos);
  const std::size_t start = first.is(kSpace) ? pos + first.bytes : pos;
  const std::size_t end = run_of(text, start, mask);
  return end > start ? end : pos;
}

}  // namespace

std::size_t deepseek_words(std::string_view text, std::size_t pos) {
  return isolate(text, pos, [&](std::size_t at) { return match_deepseek_word(text, at); });
}

std::size_t each_number(std::string_view text, std::size_t pos) {
  return isolate_runs(
      text, pos, [](const Glyph& g) { return g.is(kNumber); }, 1);
}

std::size_t three_numbers(std::string_view text, std::size_t pos) {
  return isolate_runs(
      text, pos, [](const Glyph& g) { return g.is(kNumber); }, 3);
}

std::size_t numbers(std::string_view text, std::size_t pos) {
  return isolate_runs(text, pos, [](const Glyph& g) { return g.is(kNumber); });
}

std::size_t ascii_triples(std::string_view text, std::size_t pos) {
  return isolate(text, pos, [&](std::size_t at) {
    const auto is_digit = [](const Glyph& g) { return in_range(g, '0', '9'); };
    return run(text, at, is_digit, 3) == at + 3 ? at + 3 : at;
  });
}

std::size_t punctuation(std::string_view text, std::size_t pos) {
  return isolate_runs(
      text, pos, [](const Glyph& g) { return g.is(kPunct) || is_ascii_symbol(g, "$+<=>^~|"); });
}

std::size_t falcon_punctuation(std::string_view text, std::size_t pos) {
  return isolate_runs(
      text, pos, [](const Glyph& g) { return g.is(kPunct) || is_ascii_symbol(g, "$+<=>^~|`"); });
}

std::size_t each_newline(std::string_view text, std::size_t pos) {
  return isolate_runs(
      text, pos, [](const Glyph& g) { return g.is(kNewline); }, 1);
}

std::size_t spaced_letters(std::string_view text, std::size_t pos) {
  return isolate(text, pos, [&](std::size_t at) { return match_spaced(text, at, kLetter); });
}

std::size_t spaced_punctuation(std::string_view text, std::size_t pos) {
  return isolate(text, pos, [&](std::size_t at) { return match_spaced(text, at, kPunct); });
}

std::size_t cjk_kana(std::string_view text, std::size_t pos) {
  return isolate_runs(text, pos, [](const Glyph& g) {
    return in_range(g, 0x4E00, 0x9FA5) || in_range(g, 0x3040, 0x30FF);
  });
}

std::size_t cjk_hangul(std::string_view text, std::size_t pos) {
  return isolate_runs(text, pos, [](const Glyph& g) {
    return in_range(g, 0x0800, 0x9FA5) || in_range(g, 0xAC00, 0xD7FF);
  });
}

}  // namespace herd::split
