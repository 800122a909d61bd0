// Filters over sequences and dicts.
#include <algorithm>
#include <charconv>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/text.h"

namespace herd::chat {

AttributePath::AttributePath(Interpreter& walk, const Value& path) {
  if (path.is_none() || path.is_undefined()) return;
  if (!path.is_str()) {
    parts_.push_back(path);
    return;
  }
  std::string_view rest = path.text();
  while (true) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    std::size_t number = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), number);
    const bool index = read.ec == std::errc() && read.ptr == part.data() + part.size();
    parts_.push_back(index ? Value::integer(number) : walk.heap().string(std::string(part)));
    if (dot == rest.size()) return;
    rest.remove_prefix(dot + 1);
  }
}

Value AttributePath::get(Interpreter& walk, Value value, const Value* fallback) const {
  for (const Value& part : parts_) {
    walk.heap().step();
    value = walk.item(value, part);
    if (fallback != nullptr && value.is_undefined()) value = *fallback;
  }
  return value;
}

Value lower_if_str(Heap& heap, const Value& value) {
  return value.is_str() ? heap.string(lower(value.text()), value) : value;
}

namespace {

using Args = const Arguments&;

Value generator(Interpreter& walk, std::vector<Value> items) {
  return walk.heap().list(std::move(items), Flavor::generator);
}

// ---- one value out of many ----

Value list(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("list", arguments, {});
  return walk.heap().list(iterate(walk.heap(), input));
}
Value length_of(Interpreter&, const Value& input, Args arguments) {
  const Bound bound("length", arguments, {});
  return Value::integer(length(input));
}

Value join(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  const AttributePath path(walk, bound.value(1, Value(None{})));
  const std::string separator = bound.has(0) ? walk.str(bound[0]) : "";
  Text out(walk.heap());
  bool first = true;
  for (Value& item : iterate(walk.heap(), input)) {
    if (!std::exchange(first, false)) out.add(separator);
    add_str(out, path.get(walk, std::move(item)));
  }
  return walk.heap().string(out.take());
}

Value first(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("first", arguments, {});
  if (input.is_sequence() && input.list().flavor == Flavor::generator) {
    List& source = input.list();
    if (source.next < source.items.size()) return source.items[source.next++];
  } else if (input.is_sequence() && !input.list().items.empty()) {
    return input.list().items[0];
  } else if (input.is_str() && !input.text().empty()) {
    return walk.item(input, Value(Int{0}));
  } else if (input.is_dict() && !input.dict().entries.empty()) {
    return input.dict().entries[0].first;
  } else if (!input.is_sequence() && !input.is_str()) {
    iterate(walk.heap(), input);  // fails where it cannot be done
  }
  return walk.heap().undefined("No first item, sequence was empty.");
}

void need_reversible(const Value& input) {
  const bool can = input.is_str() || input.is_dict() || input.is_undefined() ||
                   (input.is_sequence() && input.list().flavor != Flavor::generator);
  if (!can) wrong("'{}' object is not reversible", type_name(input));
}

Value last(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("last", arguments, {});
  need_reversible(input);
  if (input.is_str() && !input.text().empty()) return walk.item(input, Value(Int{-1}));
  if (input.is_sequence() && !input.list().items.empty()) return input.list().items.back();
  if (input.is_dict() && !input.dict().entries.empty()) return input.dict().entries.back().first;
  return walk.heap().undefined("No last item, sequence was empty.");
}

Value reverse(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("reverse", arguments, {});
  if (input.is_str()) {
    walk.heap().room(8 * input.text().size());
    walk.heap().work(8 * input.text().size());
    std::u32string points = to_points(input.text());
    std::reverse(points.begin(), points.end());
    return walk.heap().string(from_points(points), input);
  }
  const bool once = input.is_sequence() && input.list().flavor == Flavor::generator;
  std::vector<Value> items = iterate(walk.heap(), input);
  std::reverse(items.begin(), items.end());
  return walk.heap().list(std::move(items), once ? Flavor::list : Flavor::generator);
}

Value fallback(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  const bool replaced = input.is_undefined() || (bound.flag(1, false) && !truthy(input));
  if (!replaced) return input;
  return bound.has(0) ? bound[0] : walk.heap().string("");
}

Value attribute(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("attr", arguments, {"name"}, 1);
  const std::string_view name = bound.text(0, "");
  if (input.is_dict() && !has_method(input, name))
    return walk.heap().undefined(fmt::format("'dict object' has no attribute '{}'", name));
  return walk.attribute(input, name);
}

// ---- dicts ----

Value items(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("items", arguments, {});
  if (input.is_undefined()) return generator(walk, {});
  if (!input.is_dict()) wrong("filter 'items': can only get item pairs from a mapping");
  return generator(walk, dict_pairs(walk.heap(), input.dict()));
}

/// Items in the order of their keys, equal ones as they were.
std::vector<Value> sorted(Interpreter& walk, const std::vector<Value>& values,
                          const std::vector<Value>& keys, bool reverse) {
  walk.heap().step(values.size());
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const Value &x = keys[reverse ? b : a], &y = keys[reverse ? a : b];
    walk.heap().step(std::min(x.weight(), y.weight()) / 16);
    return compare(x, y, "<") == -1;
  });
  std::vector<Value> out;
  for (const std::size_t i : order) out.push_back(values[i]);
  return out;
}

Value dict_sort(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string_view by = bound.text(1, "key");
  if (by != "key" && by != "value") wrong("dictsort: by must be 'key' or 'value', not '{}'", by);
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_dict()) wrong("filter 'dictsort' needs a dict, not {}", type_name(input));
  std::vector<Value> keys;
  for (const auto& [key, value] : input.dict().entries) {
    const Value& chosen = by == "key" ? key : value;
    keys.push_back(bound.flag(0, false) ? chosen : lower_if_str(walk.heap(), chosen));
  }
  return walk.heap().list(
      sorted(walk, dict_pairs(walk.heap(), input.dict()), keys, bound.flag(2, false)));
}

// ---- order ----

/// sort's keys: with "a,b" a list of the attributes.
std::vector<Value> sort_keys(Interpreter& walk, const std::vector<Value>& values, const Value& by,
                             bool fold) {
  std::vector<AttributePath> paths;
  if (by.is_str()) {
    std::string_view rest = by.text();
    while (true) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      paths.emplace_back(walk, walk.heap().string(std::string(rest.substr(0, comma))));
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    paths.emplace_back(walk, by);
  }
  std::vector<Value> keys;
  for (const Value& value : values) {
    std::vector<Value> key;
    for (const AttributePath& path : paths) {
      const Value part = path.get(walk, value);
      key.push_back(fold ? lower_if_str(walk.heap(), part) : part);
    }
    keys.push_back(walk.heap().list(std::move(key)));
  }
  return keys;
}

Value sort(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const std::vector<Value> values = iterate(walk.heap(), input);
  const auto keys = sort_keys(walk, values, bound.value(2, Value(None{})), !bound.flag(1, false));
  return walk.heap().list(sorted(walk, values, keys, bound.flag(0, false)));
}

Value unique(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(walk, bound.value(1, Value(None{})));
  Dict seen;
  std::vector<Value> out;
  for (const Value& value : iterate(walk.heap(), input)) {
    Value key = path.get(walk, value);
    if (!bound.flag(0, false)) key = lower_if_str(walk.heap(), key);
    walk.heap().step(key.is_sequence() ? key.weight() : 1);
    if (!hashable(key)) wrong("unhashable type: '{}'", type_name(key));
    if (seen.find(key) != nullptr) continue;
    seen.set(key, Value(true));
    out.push_back(value);
  }
  return generator(walk, std::move(out));
}

template <int wanted>
Value extreme(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound(wanted < 0 ? "min" : "max", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(walk, bound.value(1, Value(None{})));
  const std::vector<Value> values = iterate(walk.heap(), input);
  if (values.empty()) return walk.heap().undefined("No aggregated item, sequence was empty.");
  const Value* best = nullptr;
  Value best_key;
  for (const Value& value : values) {
    Value key = path.get(walk, value);
    if (!bound.flag(0, false)) key = lower_if_str(walk.heap(), key);
    walk.heap().step(1 + key.weight() / 16);
    if (best != nullptr && compare(key, best_key, wanted < 0 ? "<" : ">") != wanted) continue;
    best = &value;
    best_key = std::move(key);
  }
  return *best;
}

Value sum(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("sum", arguments, {"attribute", "start"});
  const AttributePath path(walk, bound.value(0, Value(None{})));
  Value total = bound.value(1, Value(Int{0}));
  if (total.is_str()) wrong("filter 'sum' cannot add strings; use join");
  for (Value& value : iterate(walk.heap(), input)) {
    walk.heap().step();
    total = binary(walk.heap(), Operator::add, total, path.get(walk, std::move(value)));
  }
  return total;
}

Value group_by(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const AttributePath path(walk, bound[0]);
  const Value* absent = bound.has(1) && !bound[1].is_none() ? &bound[1] : nullptr;
  const bool fold = !bound.flag(2, false);
  const auto key_of = [&](const Value& value, bool folded) {
    const Value key = path.get(walk, value, absent);
    return folded ? lower_if_str(walk.heap(), key) : key;
  };
  const std::vector<Value> values = iterate(walk.heap(), input);
  std::vector<Value> keys;
  for (const Value& value : values) keys.push_back(key_of(value, fold));
  const std::vector<Value> ordered = sorted(walk, values, keys, false);
  std::vector<Value> out, group;
  const auto close = [&] {
    if (group.empty()) return;
    const Value key = key_of(group[0], false);
    Value pair = walk.heap().list({key, walk.heap().list(std::move(group))}, Flavor::tuple);
    pair.list().group = true;
    out.push_back(std::move(pair));
    group = {};
  };
  for (const Value& value : ordered) {
    if (!group.empty() &&
        !equal_within_budget(walk.heap(), key_of(group[0], fold), key_of(value, fold)))
      close();
    group.push_back(value);
  }
  close();
  return walk.heap().list(std::move(out));
}

// ---- choosing and changing ----

Value map(Interpreter& walk, const Value& input, Args arguments) {
  if (!truthy(input)) return generator(walk, {});
  std::vector<Value> out;
  if (arguments.positional.empty()) {
    const Bound bound("map", arguments, {"attribute", "default"});
    if (!bound.has(0)) wrong("filter 'map' needs a filter's name or attribute=");
    const AttributePath path(walk, bound[0]);
    const Value* absent = bound.has(1) && !bound[1].is_none() ? &bound[1] : nullptr;
    for (Value& item : iterate(walk.heap(), input))
      out.push_back(path.get(walk, std::move(item), absent));
    return generator(walk, std::move(out));
  }
  if (!arguments.positional[0].is_str()) wrong("filter 'map': the filter's name must be a str");
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  const std::string name = arguments.positional[0].str().text;
  for (const Value& item : iterate(walk.heap(), input))
    out.push_back(walk.filter(name, item, rest));
  return generator(walk, std::move(out));
}

template <bool keep, bool by_attribute>
Value choose(Interpreter& walk, const Value& input, Args arguments) {
  if (!truthy(input)) return generator(walk, {});
  constexpr std::size_t kFirst = by_attribute ? 1 : 0;
  const auto& given = arguments.positional;
  if (given.size() < kFirst) wrong("missing parameter for attribute name");
  const AttributePath path(walk, by_attribute ? given[0] : Value(None{}));
  const bool tested = given.size() > kFirst;
  if (tested && !given[kFirst].is_str()) wrong("the name of a test must be a str");
  const std::string name = tested ? given[kFirst].str().text : "";
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + (tested ? kFirst + 1 : kFirst));
  std::vector<Value> out;
  for (const Value& item : iterate(walk.heap(), input)) {
    walk.heap().step();
    const Value value = path.get(walk, item);
    if ((tested ? walk.test(name, value, rest) : truthy(value)) == keep) out.push_back(item);
  }
  return generator(walk, std::move(out));
}

// ---- pieces ----

std::size_t piece_count(const Bound& bound, std::string_view what) {
  const Int count = bound.integer(0, 0);
  if (count < 1 || count > 1'000'000)
    wrong("filter '{}': {} is not between 1 and 1000000", what, show_int(count));
  return static_cast<std::size_t>(count);
}

Value batch(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("batch", arguments, {"linecount", "fill_with"}, 1);
  const std::size_t count = piece_count(bound, "batch");
  const auto all = iterate(walk.heap(), input);
  std::vector<Value> out;
  for (std::size_t at = 0; at < all.size(); at += count) {
    const std::size_t end = std::min(at + count, all.size());
    std::vector<Value> row(all.begin() + static_cast<std::ptrdiff_t>(at),
                           all.begin() + static_cast<std::ptrdiff_t>(end));
    if (bound.has(1) && !bound[1].is_none()) row.resize(count, bound[1]);
    out.push_back(walk.heap().list(std::move(row)));
  }
  return generator(walk, std::move(out));
}

Value slices(Interpreter& walk, const Value& input, Args arguments) {
  const Bound bound("slice", arguments, {"slices", "fill_with"}, 1);
  const std::size_t count = piece_count(bound, "slice");
  const auto all = iterate(walk.heap(), input);
  const std::size_t each = all.size() / count, longer = all.size() % count;
  std::vector<Value> out;
  std::size_t at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t end = at + each + (i < longer ? 1 : 0);
    std::vector<Value> row(all.begin() + static_cast<std::ptrdiff_t>(at),
                           all.begin() + static_cast<std::ptrdiff_t>(end));
    if (i >= longer && bound.has(1) && !bound[1].is_none()) row.push_back(bound[1]);
    out.push_back(walk.heap().list(std::move(row)));
    at = end;
  }
  return generator(walk, std::move(out));
}

constexpr NamedFilter kFilters[] = {
    {"attr", attribute},
    {"batch", batch},
    {"count", length_of},
    {"d", fallback},
    {"default", fallback},
    {"dictsort", dict_sort},
    {"first", first},
    {"groupby", group_by},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length_of},
    {"list", list},
    {"map", map},
    {"max", extreme<1>},
    {"min", extreme<-1>},
    {"reject", choose<false, false>},
    {"rejectattr", choose<false, true>},
    {"reverse", reverse},
    {"select", choose<true, false>},
    {"selectattr", choose<true, true>},
    {"slice", slices},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

std::span<const NamedFilter> list_filters() {
  return kFilters;
}

}  // namespace herd::chat
