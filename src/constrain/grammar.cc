#include "constrain/grammar.h"

#include <fmt/format.h>

#include <algorithm>

namespace herd::constrain {
namespace {

/// Only what is open, in order, so that frames do not pile up.
void tidy(Cursor& c, Frames& frames) {
  Frames open;
  for (std::uint32_t f = c.frame; f != 0; f = frames[f].parent) open.push_back(frames[f]);
  frames.resize(1);
  for (std::size_t i = open.size(); i-- > 0;) {
    frames.push_back(open[i]);
    frames.back().parent = static_cast<std::uint32_t>(frames.size() - 2);
  }
  c.frame = static_cast<std::uint32_t>(open.size());
  c.top = c.frame + 1;
}

void set(std::vector<std::uint64_t>& mask, TokenId id) {
  mask[static_cast<std::size_t>(id) / 64] |= std::uint64_t{1} << (id % 64);
}

const Error kTooMuch{Code::out_of_range,
                     fmt::format("json_schema: more than {} alternatives or {} bytes of states at "
                                 "one place of the answer",
                                 Matcher::kMostItems, Matcher::kMostBytes)};

}  // namespace

Grammar::Grammar(Automaton automaton, std::shared_ptr<const TokenTrie> vocabulary)
    : vocabulary_(std::move(vocabulary)),
      automaton_bytes_(automaton.bytes()),
      matcher_(std::move(automaton)),
      cursors_(vocabulary_->longest() + 1) {
  note_bytes();
}

std::size_t Grammar::mask_bytes() const {
  const std::size_t each = masks_.empty() ? 0 : masks_[0].size() * sizeof(std::uint64_t);
  return mask_keys_.bytes() + masks_.size() * (each + sizeof(Mask));
}

void Grammar::note_bytes() {
  bytes_.store(automaton_bytes_ + matcher_.bytes() + mask_bytes(), std::memory_order_relaxed);
}

void Grammar::forget() {
  matcher_.forget();
  mask_keys_.clear();
  masks_.clear();
}

const Grammar::Mask& Grammar::mask_at(const Cursor& c, const Frames& frames) {
  if (mask_bytes() > kMostMaskBytes) {
    mask_keys_.clear();
    masks_.clear();
  }
  matcher_.describe(c, frames, static_cast<std::uint32_t>(vocabulary_->longest()), words_);
  const std::uint32_t id = mask_keys_.id(words_);
  if (id == masks_.size()) {
    masks_.emplace_back(static_cast<std::size_t>(vocabulary_->size() + 63) / 64, 0);
    walk(c, frames, masks_.back());
    note_bytes();
  }
  return masks_[id];
}

/// Tries every token, those that begin alike together.
void Grammar::walk(const Cursor& c, const Frames& frames, Mask& out) {
  const auto& nodes = vocabulary_->nodes();
  frames_ = frames;
  cursors_[0] = c;
  for (std::size_t i = 0; i + 1 < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    Cursor next = cursors_[node.depth - 1u];
    if (!matcher_.step(next, node.byte, frames_)) {
      i = node.skip;
      continue;
    }
    cursors_[node.depth] = next;
    for (const TokenId id : vocabulary_->tokens_of(i)) set(out, id);
    ++i;
  }
}

// ---- one answer ----

Constraint::Constraint(std::shared_ptr<Grammar> grammar) : grammar_(std::move(grammar)) {
  cursor_ = grammar_->matcher_.start(frames_);
  generation_ = grammar_->matcher_.generation();
}

bool Constraint::read(std::string_view bytes) {
  for (const char c : bytes)
    if (!grammar_->matcher_.step(cursor_, static_cast<std::uint8_t>(c), frames_)) return false;
  tidy(cursor_, frames_);
  return true;
}

/// Reads the answer again where what the matcher remembered is gone.
Status Constraint::start_over() {
  cursor_ = grammar_->matcher_.start(frames_);
  generation_ = grammar_->matcher_.generation();
  if (!read(text_)) return kTooMuch;
  return {};
}

/// A full memory is cleared once, and then must do for this answer alone: so what others left in it
/// decides nothing.
Result<std::span<const std::uint64_t>> Constraint::allowed(bool may_end) {
  Matcher& matcher = grammar_->matcher_;
  const Grammar::Mask* mask = nullptr;
  for (const bool again : {false, true}) {
    if (again || matcher.full()) grammar_->forget();
    if (!stands())
      if (Status status = start_over(); !status.ok()) return status.error();
    mask = &grammar_->mask_at(cursor_, frames_);
    if (!matcher.full()) break;
    if (again) {
      grammar_->forget();
      return kTooMuch;
    }
  }
  if (!may_end || !matcher.complete(cursor_)) return std::span(*mask);
  with_ends_ = *mask;
  for (const TokenId id : grammar_->vocabulary_->ends()) set(with_ends_, id);
  return std::span<const std::uint64_t>(with_ends_);
}

Status Constraint::take(TokenId id) {
  const TokenTrie& vocabulary = *grammar_->vocabulary_;
  Matcher& matcher = grammar_->matcher_;
  const bool known = id >= 0 && id < vocabulary.size() && !vocabulary.text(id).empty();
  if (matcher.full()) grammar_->forget();
  if (!stands())
    if (Status status = start_over(); !status.ok()) return status;
  if (known) {
    text_ += vocabulary.text(id);
    if (!read(vocabulary.text(id))) {
      if (!matcher.full())
        return {Code::invalid_argument, fmt::format("token {} breaks the answer's format", id)};
      grammar_->forget();
      if (Status status = start_over(); !status.ok()) return status;
    }
    ended_ = matcher.ended(cursor_);
    return {};
  }
  const bool ends = std::ranges::find(vocabulary.ends(), id) != vocabulary.ends().end();
  if (!ends || !matcher.complete(cursor_))
    return {Code::invalid_argument, fmt::format("token {} breaks the answer's format", id)};
  ended_ = true;
  return {};
}

}  // namespace herd::constrain
