// object.name and object[key].
#include <algorithm>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

Value loop_attribute(Heap& heap, const Loop& loop, std::string_view name) {
  const std::size_t count = loop.items.size(), at = loop.index;
  if (name == "index") return Value::integer(at + 1);
  if (name == "index0") return Value::integer(at);
  if (name == "length") return Value::integer(count);
  if (name == "first") return Value(at == 0);
  if (name == "last") return Value(at + 1 >= count);
  if (name == "revindex") return Value(static_cast<Int>(count) - static_cast<Int>(at));
  if (name == "revindex0") return Value(static_cast<Int>(count) - static_cast<Int>(at) - 1);
  if (name == "depth") return Value(Int{loop.nesting} + 1);
  if (name == "depth0") return Value(Int{loop.nesting});
  if (name == "previtem")
    return at == 0 || at > count ? heap.undefined("there is no previous item") : loop.items[at - 1];
  if (name == "nextitem")
    return at + 1 >= count ? heap.undefined("there is no next item") : loop.items[at + 1];
  return Value();
}

std::optional<Value> object_attribute(Heap& heap, const Value& object, std::string_view name) {
  if (const auto* space = object.as<Namespace>(); space != nullptr) {
    const Value* found = space->attributes.find(name);
    return found != nullptr ? std::optional<Value>(*found) : std::nullopt;
  }
  if (const auto* loop = object.as<Loop>(); loop != nullptr) {
    Value found = loop_attribute(heap, *loop, name);
    const bool absent = found.is_undefined() && !found.undefined().why;
    return absent ? std::nullopt : std::optional<Value>(std::move(found));
  }
  if (const auto* macro = object.as<Macro>(); macro != nullptr && name == "name")
    return heap.string(std::string(macro->name()));
  if (const auto* cycler = object.as<Cycler>(); cycler != nullptr && name == "current")
    return cycler->items[cycler->at];
  return std::nullopt;
}

/// What getattr() finds: methods and fields.
std::optional<Value> own_attribute(Heap& heap, const Value& object, std::string_view name) {
  if (has_method(object, name)) {
    auto* method = heap.object<Method>();
    method->self = object;
    method->name = name;
    return Value(method);
  }
  if (object.is_object()) return object_attribute(heap, object, name);
  if (!object.is_sequence()) return std::nullopt;
  const List& list = object.list();
  if (list.group && name == "grouper") return list.items[0];
  if (list.group && name == "list") return list.items[1];
  if (list.flavor != Flavor::range) return std::nullopt;
  const auto& range = static_cast<const Range&>(list);
  if (name == "start") return Value(range.start);
  if (name == "stop") return Value(range.stop);
  if (name == "step") return Value(range.stride);
  return std::nullopt;
}

/// Methods that change what they belong to; the sandbox gives them to nobody.
bool is_forbidden(const Value& object, std::string_view name) {
  static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  static constexpr std::string_view kList[] = {"append", "clear", "pop",    "reverse",
                                               "insert", "sort",  "extend", "remove"};
  if (object.is_dict())
    return std::find(std::begin(kDict), std::end(kDict), name) != std::end(kDict);
  return object.is_sequence() && object.list().flavor == Flavor::list &&
         std::find(std::begin(kList), std::end(kList), name) != std::end(kList);
}

Value forbidden(Heap& heap, const Value& object, std::string_view name) {
  return heap.undefined(fmt::format(
      "access to attribute '{}' of '{}' object is unsafe: templates cannot change values", name,
      type_name(object)));
}

Value absent(Heap& heap, const Value& object, const Value& key) {
  const std::string owner = object.is_none() ? "None" : fmt::format("{} object", type_name(object));
  if (key.is_str())
    return heap.undefined(fmt::format("'{}' has no attribute '{}'", owner, key.text()));
  return heap.undefined(fmt::format("{} has no element {}", owner, to_repr(heap, key)));
}

/// object[key] where Python's subscript works and finds something.
std::optional<Value> subscript(Heap& heap, const Value& object, const Value& key) {
  if (object.is_dict()) {
    heap.step(key.is_sequence() ? key.weight() : 0);
    if (!hashable(key)) return std::nullopt;
    const Value* found = object.dict().find(key);
    return found != nullptr ? std::optional<Value>(*found) : std::nullopt;
  }
  const bool indexed =
      object.is_str() || (object.is_sequence() && object.list().flavor <= Flavor::range);
  if (!indexed || !key.is_integral()) return std::nullopt;
  const auto count = static_cast<Int>(length(object));
  Int at = key.integer();
  if (at < 0) at += count;
  if (at < 0 || at >= count) return std::nullopt;
  const auto index = static_cast<std::size_t>(at);
  if (object.is_sequence()) return object.list().items[index];
  const std::string_view text = object.text();
  if (object.str().ascii()) return heap.string(std::string(1, text[index]), object);
  heap.work(text.size());
  std::size_t end = offset_of(text, index);
  const std::size_t begin = end;
  next_point(text, end);
  return heap.string(std::string(text.substr(begin, end - begin)), object);
}

}  // namespace

Value Interpreter::attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto found = own_attribute(heap_, object, name)) return *std::move(found);
  if (is_forbidden(object, name)) return forbidden(heap_, object, name);
  if (object.is_dict())
    if (const Value* found = object.dict().find(name); found != nullptr) return *found;
  return absent(heap_, object, heap_.string(std::string(name)));
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto found = subscript(heap_, object, key)) return *std::move(found);
  if (key.is_str()) {
    if (auto found = own_attribute(heap_, object, key.text())) return *std::move(found);
    if (is_forbidden(object, key.text())) return forbidden(heap_, object, key.text());
  }
  return absent(heap_, object, key);
}

}  // namespace herd::chat
