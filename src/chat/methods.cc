// Methods of dicts, lists, loops and cyclers, and the table of who has what.
#include <algorithm>

#include "chat/failure.h"
#include "chat/library.h"

namespace herd::chat {
namespace {

using Body = Value (*)(Interpreter&, const Value&, const Arguments&);
struct Method {
  std::string_view name;
  Body body;
};

Value dict_get(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("get()", arguments, {"", ""}, 1);
  walk.heap().step(bound[0].is_sequence() ? bound[0].weight() : 0);
  if (!hashable(bound[0])) wrong("unhashable type: '{}'", type_name(bound[0]));
  const Value* found = self.dict().find(bound[0]);
  return found != nullptr ? *found : bound.value(1, Value(None{}));
}
Value dict_keys(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("keys()", arguments, {});
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict().entries) out.push_back(key);
  return walk.heap().list(std::move(out), Flavor::keys);
}
Value dict_values(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("values()", arguments, {});
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict().entries) out.push_back(value);
  return walk.heap().list(std::move(out), Flavor::values);
}
Value dict_items(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("items()", arguments, {});
  return walk.heap().list(dict_pairs(walk.heap(), self.dict()), Flavor::items);
}
/// Values never change, so a copy is the thing itself.
Value copy(Interpreter&, const Value& self, const Arguments& arguments) {
  const Bound bound("copy()", arguments, {});
  return self;
}

Value list_count(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("count()", arguments, {""}, 1);
  walk.heap().step(self.list().items.size() / 16);
  std::size_t found = 0;
  for (const Value& item : self.list().items)
    found += equal_within_budget(walk.heap(), item, bound[0]) ? 1 : 0;
  return Value::integer(found);
}
Value list_index(Interpreter& walk, const Value& self, const Arguments& arguments) {
  const Bound bound("index()", arguments, {"", "", ""}, 1);
  const auto& items = self.list().items;
  const auto count = static_cast<Int>(items.size());
  walk.heap().step(items.size() / 16);
  const auto place = [&](std::size_t i, Int usual) {
    const Int at = bound.integer(i, usual);
    return std::clamp(at < 0 ? at + count : at, Int{0}, count);
  };
  for (Int i = place(1, 0); i < place(2, count); ++i)
    if (equal_within_budget(walk.heap(), items[static_cast<std::size_t>(i)], bound[0]))
      return Value(i);
  wrong("index(): the value is not in the list");
}

Value loop_cycle(Interpreter&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) wrong("loop.cycle(): no items for cycling given");
  const std::size_t at = self.as<Loop>()->index % arguments.positional.size();
  return arguments.positional[at];
}
Value loop_changed(Interpreter& walk, const Value& self, const Arguments& arguments) {
  auto& last = self.as<Loop>()->changed;
  const bool same = last && last->size() == arguments.positional.size() &&
                    std::equal(last->begin(), last->end(), arguments.positional.begin(),
                               [&](const Value& a, const Value& b) {
                                 return equal_within_budget(walk.heap(), a, b);
                               });
  if (!same) last = arguments.positional;
  return Value(!same);
}

Value cycler_next(Interpreter&, const Value& self, const Arguments&) {
  auto& cycler = *self.as<Cycler>();
  const std::size_t at = cycler.at;
  cycler.at = (at + 1) % cycler.items.size();
  return cycler.items[at];
}
Value cycler_reset(Interpreter&, const Value& self, const Arguments&) {
  self.as<Cycler>()->at = 0;
  return Value(None{});
}

constexpr Method kDict[] = {{"get", dict_get},
                            {"items", dict_items},
                            {"keys", dict_keys},
                            {"values", dict_values},
                            {"copy", copy}};
constexpr Method kList[] = {{"count", list_count}, {"index", list_index}, {"copy", copy}};
constexpr Method kLoop[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};
constexpr Method kCycler[] = {{"next", cycler_next}, {"reset", cycler_reset}};

std::span<const Method> methods_of(const Value& self) {
  if (self.is_dict()) return kDict;
  if (self.is_sequence()) {
    if (self.list().flavor == Flavor::list) return kList;
    if (self.list().flavor <= Flavor::range) return std::span(kList).first(2);
  }
  if (self.as<Loop>() != nullptr) return kLoop;
  if (self.as<Cycler>() != nullptr) return kCycler;
  return {};
}

Body find_method(const Value& self, std::string_view name) {
  for (const Method& method : methods_of(self))
    if (method.name == name) return method.body;
  return nullptr;
}

}  // namespace

bool has_method(const Value& self, std::string_view name) {
  return self.is_str() ? is_str_method(name) : find_method(self, name) != nullptr;
}

Value call_method(Interpreter& walk, const Value& self, std::string_view name,
                  const Arguments& arguments) {
  walk.heap().step();
  if (self.is_str()) return call_str_method(walk, self, name, arguments);
  return find_method(self, name)(walk, self, arguments);
}

std::vector<Value> dict_pairs(Heap& heap, const Dict& dict) {
  heap.step(dict.entries.size() / 8);
  std::vector<Value> out;
  for (const auto& [key, value] : dict.entries)
    out.push_back(heap.list({key, value}, Flavor::tuple));
  return out;
}

}  // namespace herd::chat
