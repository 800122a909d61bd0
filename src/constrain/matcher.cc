// The subset construction of Alur and Madhusudan for visibly pushdown automata: beside each state
// stands the entry (the body's first state) its run came in by; a frame keeps who waits for which
// entry. So alternatives never multiply with depth.
#include "constrain/matcher.h"

#include <algorithm>

namespace herd::constrain {
namespace {

constexpr std::uint8_t kOneSpace = 255;   // a run that is over
constexpr std::uint8_t kLongestRun = 33;  // a line's end and an indentation

/// White space is one space, or a line's end and an indentation. False: no more of it.
bool add_space(std::uint8_t& run, std::uint8_t byte) {
  if (run == 0 && byte != '\t') {
    run = byte == ' ' ? kOneSpace : 1;
    return true;
  }
  if (run == 0 || byte == '\n' || run >= kLongestRun) return false;
  ++run;
  return true;
}

void add_thresholds(const State& state, std::vector<std::uint32_t>& to) {
  if (state.min > 0) to.push_back(state.min);
  if (state.max < kNoLimit) to.push_back(state.max);
}
void sort_unique(std::vector<std::uint32_t>& list) {
  std::ranges::sort(list);
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

}  // namespace

Matcher::Matcher(Automaton automaton) : a_(std::move(automaton)), marks_(a_.states.size(), 0) {
  for (const State& state : a_.states) add_thresholds(state, thresholds_);
  sort_unique(thresholds_);
}

std::uint8_t Matcher::slack(int depth) const {
  return static_cast<std::uint8_t>(std::min<int>(kDeepest - depth, a_.highest + 1));
}

Cursor Matcher::start(Frames& frames) {
  frames.assign(1, Frame{});
  std::vector<Item> items = {{a_.start, 0}};
  Cursor c;
  c.set = close(items, slack(0));
  return c;
}

bool Matcher::step(Cursor& c, std::uint8_t byte, Frames& frames) {
  const Entry e = entry(c, byte);
  switch (e.kind) {
    case Kind::move:
      if ((e.flags & kSpace) == 0)
        c.run = 0;
      else if (!add_space(c.run, byte))
        return false;
      c.set = e.target;
      c.count += e.flags & kCounts;
      return true;
    case Kind::push:
      frames.resize(c.top);
      frames.push_back({e.push, c.frame, c.count});
      c = {e.target, 0, c.top, c.top + 1, static_cast<std::uint8_t>(c.depth + 1), 0};
      return true;
    case Kind::pop: {
      const Frame closed = frames[c.frame];
      --c.depth;
      c.set = after_pop(closed.push, e.target, slack(c.depth));
      c.count = closed.count;
      c.frame = closed.parent;
      c.run = 0;
      return !full_;
    }
    default: return false;
  }
}

void Matcher::describe(const Cursor& c, const Frames& frames, std::uint32_t longest,
                       std::vector<std::uint32_t>& words) const {
  words.assign(
      {c.set, c.run, std::min<std::uint32_t>(kDeepest - c.depth, a_.highest + 1 + longest)});
  // Far from every limit, only which of them lie behind matters.
  const auto next = std::ranges::upper_bound(thresholds_, c.count);
  const bool near = next != thresholds_.end() && *next - c.count <= longest;
  words.push_back(near ? 1 : 0);
  words.push_back(near ? c.count : static_cast<std::uint32_t>(next - thresholds_.begin()));
  for (std::uint32_t f = c.frame; f != 0; f = frames[f].parent) {
    words.push_back(frames[f].push);
    words.push_back(frames[f].count);
  }
}

// ---- the table ----

std::uint32_t Matcher::new_row() {
  const auto row = static_cast<std::uint32_t>(entries_.size());
  entries_.resize(entries_.size() + a_.n_classes);
  return row;
}

/// Where limits are near, a set has a row for each case: which thresholds the count has reached,
/// and how much deeper it may go.
std::uint32_t Matcher::row_of(const Cursor& c) {
  Set& set = sets_[c.set];
  const std::uint8_t deeper = slack(c.depth);
  if (set.thresholds.empty() && deeper > a_.highest) {
    if (set.row == kNoLimit) set.row = new_row();
    return set.row;
  }
  const auto reached = static_cast<std::uint32_t>(
      std::ranges::upper_bound(set.thresholds, c.count) - set.thresholds.begin());
  const std::uint32_t which = reached * 256 + deeper;
  for (const auto& [known, row] : set.rows)
    if (known == which) return row;
  const std::uint32_t row = new_row();
  sets_[c.set].rows.emplace_back(which, row);
  return row;
}

Matcher::Entry Matcher::entry(const Cursor& c, std::uint8_t byte) {
  const std::size_t at = row_of(c) + a_.byte_class[byte];
  if (entries_[at].kind != Kind::unknown) return entries_[at];
  full_ = full_ || bytes() > kMostBytes;
  if (full_) return {};
  const Entry found = find(c, byte);
  if (full_) return {};  // not known for certain, and not kept
  return entries_[at] = found;
}

Matcher::Entry Matcher::find(const Cursor& c, std::uint8_t byte) {
  const std::uint8_t deeper = slack(c.depth);
  const auto below = static_cast<std::uint8_t>(deeper == 0 ? 0 : deeper - 1);
  std::uint8_t flags = 0;
  moved_.clear(), pushed_.clear(), popped_.clear();
  const auto items = set_items_[c.set];
  for (std::size_t i = 0; i < items.size(); i += 2) {
    const State& state = a_.states[items[i]];
    const std::uint32_t context = items[i + 1];
    for (const Edge& e : a_.edges_of(items[i])) {
      if (byte < e.low || byte > e.high || !fits(e.target, deeper)) continue;
      if ((e.flags & kCounts) != 0 && c.count >= state.max) continue;
      if ((e.flags & kWhole) != 0 && c.count < state.min) continue;
      flags |= e.flags;
      moved_.push_back({e.target, context});
    }
    for (const Push& p : a_.pushes_of(items[i]))
      if (p.open == byte && deeper > 0 && fits(p.next, deeper) && fits(p.body, below))
        pushed_.push_back({p.body, p.next, context});
    if (state.closes == byte && byte != 0 && c.count >= state.min) popped_.push_back(context);
  }
  if (!moved_.empty()) return {Kind::move, flags, close(moved_, deeper), 0};
  if (!pushed_.empty()) return find_push(below);
  if (popped_.empty()) return {Kind::dead, 0, 0, 0};
  sort_unique(popped_);
  return {Kind::pop, 0, pop_contexts_.id(popped_), 0};
}

/// Context k of the new frame is its k-th body; the frame's words say who waits for it: how many,
/// then (next, context) of each.
Matcher::Entry Matcher::find_push(std::uint8_t slack) {
  std::ranges::sort(pushed_);
  pushed_.erase(std::unique(pushed_.begin(), pushed_.end()), pushed_.end());
  std::vector<Item> bodies;
  words_.clear();
  std::size_t header = 0;
  for (const Pushed& p : pushed_) {
    if (bodies.empty() || bodies.back().state != p.body) {
      bodies.push_back({p.body, static_cast<std::uint32_t>(bodies.size())});
      header = words_.size();
      words_.push_back(0);
    }
    ++words_[header];
    words_.push_back(p.next);
    words_.push_back(p.context);
  }
  const std::uint32_t push = push_entries_.id(words_);
  return {Kind::push, 0, close(bodies, slack), push};
}

std::uint32_t Matcher::after_pop(std::uint32_t push, std::uint32_t contexts, std::uint8_t slack) {
  const std::uint32_t key[] = {push, contexts, slack};
  const std::uint32_t id = pops_.id(key);
  if (id < pop_sets_.size()) return pop_sets_[id];
  const auto waiting = push_entries_[push];
  const auto ended = pop_contexts_[contexts];
  std::vector<Item> items;
  std::uint32_t body = 0;
  for (std::size_t at = 0, k = 0; at < waiting.size() && k < ended.size(); ++body) {
    const std::size_t first = at + 1, last = first + std::size_t{2} * waiting[at];
    if (ended[k] == body) {
      ++k;
      for (std::size_t i = first; i < last; i += 2) items.push_back({waiting[i], waiting[i + 1]});
    }
    at = last;
  }
  pop_sets_.push_back(close(items, slack));
  return pop_sets_.back();
}

// ---- sets ----

/// Adds what is reached without a byte, and gives the set its number.
std::uint32_t Matcher::close(std::vector<Item>& items, std::uint8_t slack) {
  std::ranges::sort(items, {}, [](const Item& i) { return std::pair(i.context, i.state); });
  std::vector<Item> all;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i == 0 || items[i].context != items[i - 1].context) ++round_;
    const auto add = [&](StateId s) {
      if (marks_[s] == round_ || !fits(s, slack)) return;
      marks_[s] = round_;
      all.push_back({s, items[i].context});
    };
    std::size_t next = all.size();
    add(items[i].state);
    for (; next < all.size() && all.size() <= kMostItems; ++next)
      for (const StateId s : a_.silent_of(all[next].state)) add(s);
  }
  full_ = full_ || all.size() > kMostItems;
  std::ranges::sort(all, {}, [](const Item& i) { return std::pair(i.context, i.state); });
  std::vector<std::uint32_t> flat;
  flat.reserve(all.size() * 2);
  for (const Item& item : all) flat.push_back(item.state), flat.push_back(item.context);
  const std::uint32_t id = set_items_.id(flat);
  if (id == sets_.size()) note_set(id);
  return id;
}

void Matcher::note_set(std::uint32_t id) {
  Set set;
  const auto items = set_items_[id];
  for (std::size_t i = 0; i < items.size(); i += 2) {
    const State& state = a_.states[items[i]];
    set.accepts = set.accepts || items[i] == a_.accept;
    add_thresholds(state, set.thresholds);
  }
  set.ends = items.size() == 2 && set.accepts;
  sort_unique(set.thresholds);
  threshold_words_ += set.thresholds.size();
  sets_.push_back(std::move(set));
}

void Matcher::forget() {
  for (Interner* interner : {&set_items_, &push_entries_, &pop_contexts_, &pops_})
    interner->clear();
  sets_.clear(), entries_.clear(), pop_sets_.clear();
  threshold_words_ = 0;
  full_ = false;
  ++generation_;
}

std::size_t Matcher::bytes() const {
  return set_items_.bytes() + push_entries_.bytes() + pop_contexts_.bytes() + pops_.bytes() +
         sets_.size() * sizeof(Set) + entries_.size() * sizeof(Entry) +
         (pop_sets_.size() + threshold_words_) * sizeof(std::uint32_t);
}

}  // namespace herd::constrain
