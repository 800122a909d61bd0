// Runs an Automaton deterministically: sets of states are made as they are met, and remembered.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "constrain/automaton.h"
#include "constrain/interner.h"

namespace herd::constrain {

/// Where a match stands. Cheap to copy; means something only with its Frames and until the matcher
/// forgets.
struct Cursor {
  std::uint32_t set = 0;    // of states it may be in
  std::uint32_t count = 0;  // of what is open: characters of a string, commas of an array
  std::uint32_t frame = 0;  // the innermost that is open; 0: none
  std::uint32_t top = 1;    // frames in use
  std::uint8_t depth = 0;
  std::uint8_t run = 0;  // of white space
};

struct Frame {
  std::uint32_t push = 0;    // who waits for it to close
  std::uint32_t parent = 0;  // the frame around it
  std::uint32_t count = 0;   // of that one, meanwhile
};
using Frames = std::vector<Frame>;

/// Not thread-safe. What it remembers never changes what it answers.
class Matcher {
 public:
  static constexpr std::size_t kMostBytes = 8u << 20;
  static constexpr std::size_t kMostItems = 2048;  // alternatives alive at once

  explicit Matcher(Automaton automaton);

  /// Before the first byte. `frames` is made ready.
  Cursor start(Frames& frames);
  /// Whether `byte` may come next; if so, moves on. If not, the cursor is of no use any more.
  bool step(Cursor& c, std::uint8_t byte, Frames& frames);

  /// A whole value has been read.
  bool complete(const Cursor& c) const { return c.depth == 0 && sets_[c.set].accepts; }
  /// And nothing may follow.
  bool ended(const Cursor& c) const { return c.depth == 0 && sets_[c.set].ends; }

  /// All that decides which tokens may follow, if none is longer than `longest` bytes.
  void describe(const Cursor& c, const Frames& frames, std::uint32_t longest,
                std::vector<std::uint32_t>& words) const;

  /// There was no room to go on: since then step() may have said no without reason.
  bool full() const { return full_; }
  /// Forgets all sets: cursors of before mean nothing any more.
  void forget();
  std::uint64_t generation() const { return generation_; }
  std::size_t bytes() const;

 private:
  struct Item {
    StateId state = 0;
    std::uint32_t context = 0;  // which of the frame's entries it began at
  };
  enum class Kind : std::uint8_t { unknown, dead, move, push, pop };
  struct Entry {
    Kind kind = Kind::unknown;
    std::uint8_t flags = 0;
    std::uint32_t target = 0;  // a set; for a pop the contexts that end
    std::uint32_t push = 0;
  };
  struct Set {
    bool accepts = false, ends = false;
    std::uint32_t row = kNoLimit;           // of entries, where neither count nor depth matters
    std::vector<std::uint32_t> thresholds;  // counts at which something changes, ascending
    std::vector<std::pair<std::uint32_t, std::uint32_t>> rows;  // where they do: (case, row)
  };

  Entry entry(const Cursor& c, std::uint8_t byte);
  std::uint32_t row_of(const Cursor& c);
  std::uint32_t new_row();
  Entry find(const Cursor& c, std::uint8_t byte);
  Entry find_push(std::uint8_t slack);
  std::uint32_t after_pop(std::uint32_t push, std::uint32_t contexts, std::uint8_t slack);
  std::uint32_t close(std::vector<Item>& items, std::uint8_t slack);
  void note_set(std::uint32_t id);
  std::uint8_t slack(int depth) const;
  bool fits(StateId state, std::uint8_t slack) const { return a_.states[state].height <= slack; }

  Automaton a_;
  std::vector<std::uint32_t> thresholds_;  // of all states
  Interner set_items_, push_entries_, pop_contexts_, pops_;
  std::vector<Set> sets_;
  std::vector<Entry> entries_;           // rows of n_classes
  std::vector<std::uint32_t> pop_sets_;  // by number of pops_
  std::size_t threshold_words_ = 0;
  std::uint64_t generation_ = 0;
  bool full_ = false;

  std::vector<std::uint32_t> marks_;  // [states] the last round in which each was added
  std::uint32_t round_ = 0;
  struct Pushed {
    StateId body, next;
    std::uint32_t context;
    auto operator<=>(const Pushed&) const = default;
  };
  std::vector<Item> moved_;
  std::vector<Pushed> pushed_;
  std::vector<std::uint32_t> popped_, words_;
};

}  // namespace herd::constrain
