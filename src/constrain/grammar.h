// A schema ready for one vocabulary, and an answer on its way through it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "constrain/matcher.h"
#include "constrain/token_trie.h"
#include "herd/status.h"

namespace herd::constrain {

/// Shared by all answers with the same schema. One thread at a time, but bytes() from any. What it
/// remembers has a limit in bytes and decides no answer.
class Grammar {
 public:
  static constexpr std::size_t kMostMaskBytes = 4u << 20;

  Grammar(Automaton automaton, std::shared_ptr<const TokenTrie> vocabulary);

  std::size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  const TokenTrie& vocabulary() const { return *vocabulary_; }

 private:
  friend class Constraint;
  using Mask = std::vector<std::uint64_t>;  // a bit for each token
  const Mask& mask_at(const Cursor& c, const Frames& frames);
  void walk(const Cursor& c, const Frames& frames, Mask& out);
  void forget();
  std::size_t mask_bytes() const;
  void note_bytes();

  std::shared_ptr<const TokenTrie> vocabulary_;
  std::size_t automaton_bytes_;
  Matcher matcher_;
  Interner mask_keys_;
  std::vector<Mask> masks_;  // by number of mask_keys_
  std::vector<std::uint32_t> words_;
  std::vector<Cursor> cursors_;  // [longest token + 1]
  Frames frames_;
  std::atomic<std::size_t> bytes_{0};
};

/// One answer's place in a grammar. Not thread-safe; answers of one grammar take turns. Depends on
/// the tokens it has taken alone.
class Constraint {
 public:
  explicit Constraint(std::shared_ptr<Grammar> grammar);

  /// A bit for each token that may come next, [vocabulary / 64, rounded up], valid until the
  /// grammar is next used. `may_end`: the vocabulary's end tokens too, once a whole value is there.
  /// Never empty before ended(). Error: out_of_range, the schema has too many alternatives at once.
  Result<std::span<const std::uint64_t>> allowed(bool may_end);
  /// Takes a token. Errors, after which the answer is lost: invalid_argument, a token that is not
  /// allowed; as allowed().
  Status take(TokenId id);
  /// A whole value is there, and nothing can follow it.
  bool ended() const { return ended_; }

 private:
  bool stands() const { return generation_ == grammar_->matcher_.generation(); }
  bool read(std::string_view bytes);
  Status start_over();

  std::shared_ptr<Grammar> grammar_;
  std::string text_;  // taken so far
  Cursor cursor_;
  Frames frames_;
  std::uint64_t generation_ = 0;
  bool ended_ = false;
  std::vector<std::uint64_t> with_ends_;
};

}  // namespace herd::constrain
