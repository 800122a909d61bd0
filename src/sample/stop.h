// Finds the end of an answer in text that arrives piece by piece.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "herd/status.h"

namespace herd {

/// Error: invalid_argument when a stop string is empty, naming its index.
Status validate_stops(std::span<const std::string> stops);

/// Looks for stop strings in pushed text. The match that ends first counts, of those that end
/// together the longest; so how the text is split never changes the answer. Linear in the text for
/// each stop string. Thread-compatible.
class StopMatcher {
 public:
  /// REQUIRES: validate_stops(stops).
  explicit StopMatcher(std::vector<std::string> stops = {});

  /// Takes more text and returns what is now sure to belong to the answer: all but a tail that may
  /// be the start of a stop string; on a match, all before it. After a match text is ignored.
  std::string push(std::string_view text);
  /// The text has ended: returns what was held back. Empty after a match.
  std::string finish();

  bool matched() const { return match_ >= 0; }
  /// Index of the stop string that matched, or -1.
  int match() const { return match_; }
  /// Bytes held back.
  std::size_t held() const { return pending_.size() - taken_; }
  /// Ready for another text.
  void reset();

 private:
  // Knuth, Morris and Pratt: how much of one stop string the text so far ends with.
  struct Pattern {
    std::string text;
    std::vector<std::size_t> border;  // [text.size()] longest proper border of text[0..i]
    std::size_t seen = 0;             // characters of `text` at the end of the pushed text
    bool advance(char c);             // true when all of it has been seen
  };
  static Pattern make_pattern(std::string text);
  bool advance(char c);
  std::string take(std::size_t count);

  std::vector<Pattern> patterns_;
  std::string pending_;  // pushed and not returned, after the first taken_ bytes
  std::size_t taken_ = 0;
  int match_ = -1;
};

}  // namespace herd
