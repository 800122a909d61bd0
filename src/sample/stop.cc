#include "sample/stop.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace herd {

Status validate_stops(std::span<const std::string> stops) {
  for (std::size_t i = 0; i < stops.size(); ++i)
    if (stops[i].empty())
      return {
          Code::invalid_argument,
          fmt::format("stop string {} of {} is empty, must have at least 1 byte", i, stops.size())};
  return {};
}

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  patterns_.reserve(stops.size());
  for (std::string& stop : stops) patterns_.push_back(make_pattern(std::move(stop)));
}

StopMatcher::Pattern StopMatcher::make_pattern(std::string text) {
  std::vector<std::size_t> border(text.size(), 0);
  for (std::size_t i = 1, k = 0; i < text.size(); ++i) {
    while (k > 0 && text[i] != text[k]) k = border[k - 1];
    if (text[i] == text[k]) ++k;
    border[i] = k;
  }
  return {std::move(text), std::move(border), 0};
}

bool StopMatcher::Pattern::advance(char c) {
  while (seen > 0 && text[seen] != c) seen = border[seen - 1];
  if (text[seen] == c) ++seen;
  return seen == text.size();
}

// True when a stop string ends with `c`; the longest such becomes the match.
bool StopMatcher::advance(char c) {
  for (std::size_t i = 0; i < patterns_.size(); ++i) {
    if (!patterns_[i].advance(c)) continue;
    const bool longer = match_ < 0 || patterns_[i].text.size() >
                                          patterns_[static_cast<std::size_t>(match_)].text.size();
    if (longer) match_ = static_cast<int>(i);
  }
  return matched();
}

std::string StopMatcher::push(std::string_view text) {
  if (matched()) return {};
  for (const char c : text) {
    pending_.push_back(c);
    if (!advance(c)) continue;
    const std::size_t stop = patterns_[static_cast<std::size_t>(match_)].text.size();
    std::string before = take(held() - stop);
    take(held());
    return before;
  }
  std::size_t hold = 0;
  for (const Pattern& pattern : patterns_) hold = std::max(hold, pattern.seen);
  return take(held() - hold);
}

std::string StopMatcher::finish() {
  return take(held());
}

void StopMatcher::reset() {
  for (Pattern& pattern : patterns_) pattern.seen = 0;
  pending_.clear();
  taken_ = 0;
  match_ = -1;
}

// Bytes are dropped from the front only when they are most of the buffer, so each moves O(1) times.
std::string StopMatcher::take(std::size_t count) {
  std::string result = pending_.substr(taken_, count);
  taken_ += count;
  if (2 * taken_ >= pending_.size()) {
    pending_.erase(0, taken_);
    taken_ = 0;
  }
  return result;
}

}  // namespace herd
