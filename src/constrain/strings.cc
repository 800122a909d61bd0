// The insides of JSON strings as automata over bytes.
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "constrain/scalars.h"

namespace herd::constrain {
namespace {

constexpr char kQuote = '"', kBackslash = '\\';

/// Where one stands between the characters of a string and inside one, RFC 3629's table.
struct Step {
  int from;
  std::uint8_t low, high;
  int to;
};
enum Place { kBetween, kTail1, kTail2, kTail3, kAfterE0, kAfterEd, kAfterF0, kAfterF4, kPlaces };
constexpr Step kUtf8[] = {
    {kBetween, 0x20, 0x21, kBetween}, {kBetween, 0x23, 0x5b, kBetween},
    {kBetween, 0x5d, 0x7f, kBetween}, {kBetween, 0xc2, 0xdf, kTail1},
    {kBetween, 0xe0, 0xe0, kAfterE0}, {kBetween, 0xe1, 0xec, kTail2},
    {kBetween, 0xed, 0xed, kAfterEd}, {kBetween, 0xee, 0xef, kTail2},
    {kBetween, 0xf0, 0xf0, kAfterF0}, {kBetween, 0xf1, 0xf3, kTail3},
    {kBetween, 0xf4, 0xf4, kAfterF4}, {kTail1, 0x80, 0xbf, kBetween},
    {kTail2, 0x80, 0xbf, kTail1},     {kTail3, 0x80, 0xbf, kTail2},
    {kAfterE0, 0xa0, 0xbf, kTail1},   {kAfterEd, 0x80, 0x9f, kTail1},
    {kAfterF0, 0x90, 0xbf, kTail2},   {kAfterF4, 0x80, 0x8f, kTail2},
};

void add_hex(Builder& b, StateId from, std::string_view digits, StateId to) {
  for (const char digit : digits) b.edge(from, digit, to);
}

/// `count` hexadecimal digits.
void add_any_hex(Builder& b, StateId from, int count, StateId to) {
  for (int i = 0; i < count; ++i) {
    const StateId next = i + 1 == count ? to : b.state();
    add_hex(b, from, "0123456789abcdefABCDEF", next);
    from = next;
  }
}

/// After a backslash: a short escape, a \uXXXX, or two that make a pair of surrogates.
void add_escape(Builder& b, StateId from, StateId to) {
  for (const char c : std::string_view("\"\\/bfnrt")) b.edge(from, c, to);
  const StateId u = b.state(), d = b.state(), three = b.state(), two = b.state();
  b.edge(from, 'u', u);
  add_hex(b, u, "0123456789abcefABCEF", three);
  add_any_hex(b, three, 3, to);
  add_hex(b, u, "dD", d);
  add_hex(b, d, "01234567", two);
  add_any_hex(b, two, 2, to);
  const StateId high = b.state(), end = b.state(), backslash = b.state(), second = b.state(),
                low = b.state(), last = b.state();
  add_hex(b, d, "89abAB", high);
  add_any_hex(b, high, 2, end);
  b.edge(end, kBackslash, backslash);
  b.edge(backslash, 'u', second);
  add_hex(b, second, "dD", low);
  add_hex(b, low, "cdefCDEF", last);
  add_any_hex(b, last, 2, to);
}

std::array<StateId, kPlaces> add_utf8(Builder& b, StateId start, std::uint8_t flags) {
  std::array<StateId, kPlaces> places;
  places[kBetween] = start;
  for (int p = kBetween + 1; p < kPlaces; ++p) places[static_cast<std::size_t>(p)] = b.state();
  for (const Step& s : kUtf8)
    b.edge(places[static_cast<std::size_t>(s.from)], s.low, s.high,
           places[static_cast<std::size_t>(s.to)], s.from == kBetween ? flags : std::uint8_t{0});
  return places;
}

/// The names in a tree by their bytes, each node with its place in a character.
struct Names {
  struct Node {
    std::map<std::uint8_t, std::size_t> children;
    int place = kBetween;
    bool ends = false;
  };
  std::vector<Node> nodes = std::vector<Node>(1);

  static int next_place(int place, std::uint8_t byte) {
    for (const Step& s : kUtf8)
      if (s.from == place && byte >= s.low && byte <= s.high) return s.to;
    return -1;
  }
  /// A name that cannot be spelt without an escape needs no place in the tree.
  void add(std::string_view name) {
    std::size_t at = 0;
    for (const char c : name) {
      const auto byte = static_cast<std::uint8_t>(c);
      const int place = next_place(nodes[at].place, byte);
      if (place < 0) return;
      const auto [child, fresh] = nodes[at].children.try_emplace(byte, nodes.size());
      at = child->second;
      if (!fresh) continue;
      nodes.emplace_back();
      nodes.back().place = place;
    }
    nodes[at].ends = true;
  }
};

}  // namespace

void add_any_string(Builder& b, StateId start, std::uint32_t min, std::uint32_t max) {
  const std::uint8_t flags = min > 0 || max < kNoLimit ? kCounts : kPlain;
  const StateId backslash = b.state();
  add_utf8(b, start, flags);
  b.edge(start, kBackslash, backslash, flags);
  add_escape(b, backslash, start);
  b.limit(start, min, max);
  b.closes(start, kQuote);
}

void add_other_string(Builder& b, StateId start, const std::vector<std::string>& names) {
  Names tree;
  for (const std::string& name : names) tree.add(name);
  const StateId general = b.state();
  const auto places = add_utf8(b, general, kPlain);
  b.closes(general, kQuote);
  std::vector<StateId> states = {start};
  for (std::size_t i = 1; i < tree.nodes.size() && !b.full(); ++i) states.push_back(b.state());
  for (std::size_t i = 0; i < states.size() && !b.full(); ++i) {
    const Names::Node& node = tree.nodes[i];
    if (node.place == kBetween && !node.ends) b.closes(states[i], kQuote);
    for (const auto& [byte, child] : node.children)
      if (child < states.size()) b.edge(states[i], byte, byte, states[child]);
    for (const Step& s : kUtf8) {
      if (s.from != node.place) continue;
      int low = s.low;
      for (auto it = node.children.lower_bound(s.low);
           it != node.children.end() && it->first <= s.high; ++it) {
        if (low < it->first)
          b.edge(states[i], static_cast<std::uint8_t>(low),
                 static_cast<std::uint8_t>(it->first - 1), places[static_cast<std::size_t>(s.to)]);
        low = it->first + 1;
      }
      if (low <= s.high)
        b.edge(states[i], static_cast<std::uint8_t>(low), s.high,
               places[static_cast<std::size_t>(s.to)]);
    }
  }
}

void add_these_strings(Builder& b, StateId start, std::span<const std::string> texts) {
  std::map<std::pair<StateId, char>, StateId> tree;  // texts that begin alike share states
  for (const std::string& text : texts) {
    const std::string quoted = nlohmann::json(text).dump();
    StateId at = start;
    for (const char byte : std::string_view(quoted).substr(1, quoted.size() - 2)) {
      const auto [child, fresh] = tree.try_emplace({at, byte}, at);
      if (fresh) {
        child->second = b.state();
        b.edge(at, byte, child->second);
      }
      at = child->second;
    }
    b.closes(at, kQuote);
  }
}

}  // namespace herd::constrain
