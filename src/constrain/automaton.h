// A pushdown automaton over bytes in which the bytes alone say when the stack moves: an opening {,
// [ or " pushes, its closing one pops. So every run over the same bytes has the same depth, and the
// automaton can be made deterministic (matcher.h) however many alternatives a schema has.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace herd::constrain {

using StateId = std::uint32_t;

inline constexpr std::uint32_t kNoLimit = std::numeric_limits<std::uint32_t>::max();
inline constexpr std::uint8_t kNever = 255;
inline constexpr int kDeepest = 64;  // objects, arrays and strings open at once

enum EdgeFlag : std::uint8_t {
  kPlain = 0,
  kCounts = 1,  // adds one to the count of what is open; needs count < State::max
  kSpace = 2,   // white space between tokens, whose runs are bounded
  kWhole = 4,   // needs count >= State::min
};

struct Edge {
  StateId target = 0;
  std::uint8_t low = 0, high = 0;  // bytes, both included
  std::uint8_t flags = kPlain;
};

/// On `open` goes to `body`; when that has closed, goes on at `next`.
struct Push {
  StateId body = 0, next = 0;
  std::uint8_t open = 0;
};

struct State {
  std::uint32_t first_edge = 0, first_push = 0, first_silent = 0;  // up to the next state's
  std::uint32_t min = 0, max = kNoLimit;  // of the count, for edges with flags and for closing
  std::uint8_t closes = 0;                // the byte that ends the body here; 0: none
  std::uint8_t height = kNever;  // how much deeper one must go at least from here to the end of the
                                 // body; kNever: no way leads there
};

/// Immutable. Every state that a match can be in has a way to the end.
struct Automaton {
  std::vector<State> states;  // [n + 1]; the last only ends the ranges
  std::vector<Edge> edges;
  std::vector<Push> pushes;
  std::vector<StateId> silent;  // reached without a byte
  StateId start = 0, accept = 0;
  std::uint8_t highest = 0;                    // largest height that is not kNever
  std::array<std::uint8_t, 256> byte_class{};  // bytes that no state tells apart share one
  std::uint32_t n_classes = 0;

  std::span<const Edge> edges_of(StateId s) const {
    return std::span(edges).subspan(states[s].first_edge,
                                    states[s + 1].first_edge - states[s].first_edge);
  }
  std::span<const Push> pushes_of(StateId s) const {
    return std::span(pushes).subspan(states[s].first_push,
                                     states[s + 1].first_push - states[s].first_push);
  }
  std::span<const StateId> silent_of(StateId s) const {
    return std::span(silent).subspan(states[s].first_silent,
                                     states[s + 1].first_silent - states[s].first_silent);
  }
  std::size_t bytes() const {
    return sizeof(Automaton) + states.size() * sizeof(State) + edges.size() * sizeof(Edge) +
           pushes.size() * sizeof(Push) + silent.size() * sizeof(StateId);
  }
};

}  // namespace herd::constrain
