#include "chat/heap.h"

#include <algorithm>

#include "chat/failure.h"
#include "chat/objects.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

std::shared_ptr<Str> make_str(std::string text, bool markup) {
  auto str = std::make_shared<Str>();
  str->points = count_points(text);
  str->text = std::move(text);
  str->markup = markup;
  return str;
}

}  // namespace

void Heap::step(std::size_t count) {
  constexpr std::size_t kMost = std::size_t{1} << 62;
  used_ += static_cast<std::int64_t>(std::min(count, kMost - static_cast<std::size_t>(used_)));
  if (used_ > limits_.steps)
    fail(Code::resource_exhausted,
         fmt::format("the template needs more than {} steps", limits_.steps));
}

void Heap::room(std::size_t bytes) const {
  if (bytes > meter_.limit())
    fail(
        Code::resource_exhausted,
        fmt::format("text of {} bytes; values may take {} bytes of memory", bytes, meter_.limit()));
}

void Heap::check_depth(int depth) const {
  if (depth > limits_.depth)
    fail(Code::resource_exhausted,
         fmt::format("lists and dicts nested {} deep; the limit is {}", depth, limits_.depth));
}

void Heap::charge_object(std::size_t bytes) {
  object_leases_.emplace_back(&meter_, bytes + sizeof(Lease) + sizeof(void*));
}

Value Heap::string(std::string text, bool markup) {
  work(text.size());
  auto str = make_str(std::move(text), markup);
  str->lease = Lease(&meter_, sizeof(Str) + str->text.capacity());
  return Value(StrPtr(std::move(str)));
}
Value Heap::string(std::string text, const Value& like) {
  return string(std::move(text), like.is_str() && like.str().markup);
}

Value Heap::list(std::vector<Value> items, Flavor flavor) {
  step(items.size() / 64);
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    list->depth = std::max(list->depth, 1 + item.depth());
    list->weight = add_weights(list->weight, item.weight());
  }
  check_depth(list->depth);
  list->items = std::move(items);
  list->flavor = flavor;
  list->lease = Lease(&meter_, sizeof(List) + list->items.capacity() * sizeof(Value));
  return Value(std::move(list));
}

Value Heap::dict(Dict dict) {
  constexpr std::size_t kEntry = 2 * sizeof(Value) + 96;  // with its node in the index
  step(dict.entries.size() / 16);
  check_depth(dict.depth);
  auto shared = std::make_shared<Dict>(std::move(dict));
  shared->lease = Lease(&meter_, sizeof(Dict) + shared->entries.size() * kEntry);
  return Value(DictPtr(std::move(shared)));
}

Value Heap::range(Int start, Int stop, Int stride) {
  auto range = std::make_shared<Range>();
  range->start = start;
  range->stop = stop;
  range->stride = stride;
  range->flavor = Flavor::range;
  for (Int i = start; stride > 0 ? i < stop : i > stop; i += stride)
    range->items.push_back(Value(i));
  step(range->items.size() / 64);
  range->weight = add_weights(1, range->items.size());
  range->lease = Lease(&meter_, sizeof(Range) + range->items.capacity() * sizeof(Value));
  return Value(ListPtr(std::move(range)));
}

Value Heap::undefined(std::string why) {
  return Value(Undefined{StrPtr(make_str(std::move(why), false))});
}
Value Heap::constant(std::string text) {
  return Value(StrPtr(make_str(std::move(text), false)));
}

void Text::add(std::string_view more) {
  heap_.room(text_.size() + more.size());
  text_.append(more);
}
void Text::repeat(std::string_view piece, std::size_t times) {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(piece.size(), times, &bytes)) bytes = ~std::size_t{0} / 2;
  heap_.room(text_.size() + bytes);
  for (std::size_t i = 0; i < times && !piece.empty(); ++i) text_.append(piece);
}

}  // namespace herd::chat
