// Puts an Automaton together state by state.
#pragma once

#include <bitset>
#include <string_view>
#include <vector>

#include "constrain/automaton.h"

namespace herd::constrain {

/// The bytes that a vocabulary has a token of its own for.
using Alphabet = std::bitset<256>;

class Builder {
 public:
  static constexpr std::size_t kMostStates = 100'000, kMostEdges = 400'000;

  /// Edges on bytes outside the alphabet are left out: who follows the others never gets stuck.
  explicit Builder(const Alphabet& alphabet) : alphabet_(alphabet) {}

  /// Beyond the limits nothing more is added, and full() is true.
  StateId state();
  void edge(StateId from, std::uint8_t low, std::uint8_t high, StateId to,
            std::uint8_t flags = kPlain);
  void edge(StateId from, char byte, StateId to, std::uint8_t flags = kPlain) {
    edge(from, static_cast<std::uint8_t>(byte), static_cast<std::uint8_t>(byte), to, flags);
  }
  void silent(StateId from, StateId to);
  void push(StateId from, char open, StateId body, StateId next);
  void closes(StateId state, char byte);
  void limit(StateId state, std::uint32_t min, std::uint32_t max);
  /// White space from `from` to `to`, which may be the same.
  void space(StateId from, StateId to, std::uint8_t flags = kPlain);
  /// The bytes of `text` one after another, through states of their own.
  void text(StateId from, std::string_view text, StateId to);

  bool full() const { return full_; }
  /// Whether a way leads from `start` to `accept`: finish() has found out.
  Automaton finish(StateId start, StateId accept);

 private:
  template <class T>
  struct From {
    StateId from;
    T value;
  };
  bool room();
  void find_heights(Automaton& a) const;
  void find_classes(Automaton& a) const;

  Alphabet alphabet_;
  std::vector<State> states_;
  std::vector<From<Edge>> edges_;
  std::vector<From<Push>> pushes_;
  std::vector<From<StateId>> silent_;
  bool full_ = false;
};

}  // namespace herd::constrain
