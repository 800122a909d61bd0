// The functions every template may call.
#include <algorithm>
#include <ctime>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/walk.h"

namespace herd::chat {
namespace {

constexpr Int kMaxRange = 100'000;  // the sandbox's

Value range(Interpreter& walk, const Arguments& arguments) {
  const Bound bound("range()", arguments, {"", "", ""}, 1);
  Int begin = 0, end = bound.integer(0, 0);
  if (bound.has(1)) {
    begin = end;
    end = bound.integer(1, 0);
  }
  const Int stride = bound.integer(2, 1);
  constexpr Int kFar = Int{1} << 64;
  for (const Int value : {begin, end, stride})
    if (value > kFar || value < -kFar)
      fail(Code::out_of_range, fmt::format("range({}): beyond 64 bits", show_int(value)));
  if (stride == 0) wrong("range() arg 3 must not be zero");
  const Int count =
      stride > 0 ? (end - begin + stride - 1) / stride : (begin - end - stride - 1) / -stride;
  if (count > kMaxRange)
    fail(Code::resource_exhausted, fmt::format("range() of {} numbers; the limit is {}",
                                               show_int(count), show_int(kMaxRange)));
  return walk.heap().range(begin, end, stride);
}

/// What dict(...) and namespace(...) are made of.
Dict members(Interpreter& walk, std::string_view what, const Arguments& arguments) {
  if (arguments.positional.size() > 1) wrong("{} takes at most 1 positional argument", what);
  Dict out;
  const auto add = [&](const Value& key, const Value& value) {
    walk.heap().step(1 + (key.is_sequence() ? key.weight() : 0));
    if (!hashable(key)) wrong("unhashable type: '{}'", type_name(key));
    out.set(key, value);
  };
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is_dict()) {
      for (const auto& [key, value] : from.dict().entries) add(key, value);
    } else {
      for (const Value& pair : iterate(walk.heap(), from)) {
        const std::vector<Value> parts = iterate(walk.heap(), pair);
        if (parts.size() != 2) wrong("{}: an item has {} values; 2 are needed", what, parts.size());
        add(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) add(walk.heap().string(name), value);
  return out;
}

Value dict(Interpreter& walk, const Arguments& arguments) {
  return walk.heap().dict(members(walk, "dict()", arguments));
}

Value make_namespace(Interpreter& walk, const Arguments& arguments) {
  const Dict given = members(walk, "namespace()", arguments);
  auto* space = walk.heap().object<Namespace>();
  for (const auto& [name, value] : given.entries) set_attribute(*space, name, value);
  return Value(space);
}

Value cycler(Interpreter& walk, const Arguments& arguments) {
  if (arguments.positional.empty()) wrong("cycler(): at least one item has to be provided");
  auto* made = walk.heap().object<Cycler>();
  made->items = arguments.positional;
  return Value(made);
}

Value joiner(Interpreter& walk, const Arguments& arguments) {
  const Bound bound("joiner()", arguments, {"sep"});
  auto* made = walk.heap().object<Joiner>();
  made->separator = bound.value(0, walk.heap().string(", "));
  return Value(made);
}

Value raise_exception(Interpreter& walk, const Arguments& arguments) {
  const Bound bound("raise_exception()", arguments, {"message"}, 1);
  fail(Code::invalid_argument, "raise_exception: " + walk.str(bound[0]));
}

/// Python's datetime.now() has no zone: %z and %Z are empty, %f are microseconds.
std::string zoneless(std::string_view form) {
  std::string out;
  for (std::size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '%' || i + 1 == form.size()) {
      out += form[i];
      continue;
    }
    const char c = form[++i];
    if (c == 'f')
      out += "000000";
    else if (c != 'z' && c != 'Z')
      out += {'%', c};
  }
  return out;
}

Value strftime_now(Interpreter& walk, const Arguments& arguments) {
  const Bound bound("strftime_now()", arguments, {"format"}, 1);
  const std::string form = zoneless(bound.text(0, ""));
  if (form.empty()) return walk.heap().string("");
  const std::time_t now = walk.heap().limits().now.value_or(std::time(nullptr));
  std::tm parts = {};
  localtime_r(&now, &parts);
  char text[4096];
  const std::size_t size = std::strftime(text, sizeof text, form.c_str(), &parts);
  if (size == 0) wrong("strftime_now(): no or too much text for '{:.40}'", form);
  return walk.heap().string(std::string(text, size));
}

}  // namespace

void add_globals(Heap& heap, Scope& scope) {
  struct Global {
    std::string_view name;
    Function::Body body;
    bool type;
  };
  static constexpr Global kGlobals[] = {{"range", range, false},
                                        {"dict", dict, true},
                                        {"namespace", make_namespace, true},
                                        {"cycler", cycler, true},
                                        {"joiner", joiner, true},
                                        {"raise_exception", raise_exception, false},
                                        {"strftime_now", strftime_now, false}};
  for (const Global& global : kGlobals) {
    auto* function = heap.object<Function>();
    function->body = global.body;
    function->type = global.type;
    scope.set(global.name, Value(function));
  }
}

}  // namespace herd::chat
