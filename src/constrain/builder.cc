#include "constrain/builder.h"

#include <algorithm>

namespace herd::constrain {

bool Builder::room() {
  full_ = full_ || edges_.size() + pushes_.size() + silent_.size() >= kMostEdges;
  return !full_;
}

StateId Builder::state() {
  full_ = full_ || states_.size() >= kMostStates;
  if (!full_) states_.emplace_back();
  return static_cast<StateId>(states_.size() - 1);
}

void Builder::edge(StateId from, std::uint8_t low, std::uint8_t high, StateId to,
                   std::uint8_t flags) {
  for (int byte = low; byte <= high; ++byte) {
    if (!alphabet_[static_cast<std::size_t>(byte)]) continue;
    int last = byte;
    while (last < high && alphabet_[static_cast<std::size_t>(last) + 1]) ++last;
    if (room())
      edges_.push_back(
          {from, {to, static_cast<std::uint8_t>(byte), static_cast<std::uint8_t>(last), flags}});
    byte = last;
  }
}

void Builder::silent(StateId from, StateId to) {
  if (room()) silent_.push_back({from, to});
}

void Builder::push(StateId from, char open, StateId body, StateId next) {
  const auto byte = static_cast<std::uint8_t>(open);
  if (alphabet_[byte] && room()) pushes_.push_back({from, {body, next, byte}});
}

void Builder::closes(StateId state, char byte) {
  const auto close = static_cast<std::uint8_t>(byte);
  if (alphabet_[close]) states_[state].closes = close;
}

void Builder::limit(StateId state, std::uint32_t min, std::uint32_t max) {
  states_[state].min = min;
  states_[state].max = max;
}

void Builder::space(StateId from, StateId to, std::uint8_t flags) {
  const auto all = static_cast<std::uint8_t>(kSpace | flags);
  for (const char byte : {' ', '\t', '\n'}) edge(from, byte, to, all);
}

void Builder::text(StateId from, std::string_view text, StateId to) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const StateId next = i + 1 == text.size() ? to : state();
    edge(from, text[i], next);
    from = next;
  }
}

// ---- the finished automaton ----

namespace {

/// Sorts by state, stably, and notes where each state's begin.
template <class Records, class T>
void lay_out(const Records& records, std::vector<State>& states, std::uint32_t State::*first,
             std::vector<T>& out) {
  std::vector<std::uint32_t> at(states.size(), 0);
  for (const auto& record : records) ++at[record.from + 1];
  for (std::size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
  for (std::size_t i = 0; i < at.size(); ++i) states[i].*first = at[i];
  out.resize(records.size());
  for (const auto& record : records) out[at[record.from]++] = record.value;
}

}  // namespace

Automaton Builder::finish(StateId start, StateId accept) {
  Automaton a;
  a.states = std::move(states_);
  a.states.emplace_back();
  lay_out(edges_, a.states, &State::first_edge, a.edges);
  lay_out(pushes_, a.states, &State::first_push, a.pushes);
  lay_out(silent_, a.states, &State::first_silent, a.silent);
  a.start = start;
  a.accept = accept;
  find_heights(a);
  find_classes(a);
  return a;
}

/// Level by level: a state has height h if a way to the end opens nothing deeper than h - 1.
void Builder::find_heights(Automaton& a) const {
  struct Before {
    StateId state;
    StateId body;  // that must be passed on the way, or kNoLimit
  };
  std::vector<From<Before>> reversed;
  for (const auto& e : edges_) reversed.push_back({e.value.target, {e.from, kNoLimit}});
  for (const auto& s : silent_) reversed.push_back({s.value, {s.from, kNoLimit}});
  for (const auto& p : pushes_) reversed.push_back({p.value.next, {p.from, p.value.body}});
  std::vector<State> ranges(a.states.size());
  std::vector<Before> before;
  lay_out(reversed, ranges, &State::first_edge, before);

  std::vector<StateId> found;
  const auto reach = [&](StateId s, int height) {
    if (a.states[s].height != kNever) return;
    a.states[s].height = static_cast<std::uint8_t>(height);
    a.highest = static_cast<std::uint8_t>(height);
    found.push_back(s);
  };
  for (int height = 0; height <= kDeepest; ++height) {
    if (height == 0) {
      reach(a.accept, 0);
      for (StateId s = 0; s + 1 < a.states.size(); ++s)
        if (a.states[s].closes != 0) reach(s, 0);
    }
    for (const auto& p : pushes_)
      if (a.states[p.value.body].height < height && a.states[p.value.next].height <= height)
        reach(p.from, height);
    while (!found.empty()) {
      const StateId s = found.back();
      found.pop_back();
      for (std::uint32_t i = ranges[s].first_edge; i < ranges[s + 1].first_edge; ++i)
        if (before[i].body == kNoLimit || a.states[before[i].body].height < height)
          reach(before[i].state, height);
    }
  }
}

void Builder::find_classes(Automaton& a) const {
  std::bitset<257> begins;
  begins[0] = true;
  const auto alone = [&](std::size_t low, std::size_t high) {
    begins[low] = true;
    begins[high + 1] = true;
  };
  for (const auto& e : edges_) alone(e.value.low, e.value.high);
  for (const auto& p : pushes_) alone(p.value.open, p.value.open);
  for (const State& s : a.states)
    if (s.closes != 0) alone(s.closes, s.closes);
  std::uint32_t classes = 0;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    classes += begins[byte] ? 1 : 0;
    a.byte_class[byte] = static_cast<std::uint8_t>(classes - 1);
  }
  a.n_classes = classes;
}

}  // namespace herd::constrain
