#include "chat/value.h"

#include <algorithm>
#include <cmath>

#include "chat/failure.h"

namespace herd::chat {
namespace {

constexpr std::size_t kScanned = 8;  // entries that a dict finds without its index

/// None, numbers, strings, tuples, the rest.
int key_rank(const Value& value) {
  if (value.is_none()) return 0;
  if (value.is_number()) return 1;
  if (value.is_str()) return 2;
  return value.is_sequence() ? 3 : 4;
}

int three_way(double a, double b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

int compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral())
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
  return three_way(a.real(), b.real());
}

bool equal_lists(const List& a, const List& b) {
  if (&a == &b) return true;
  if (a.flavor != b.flavor || a.flavor > Flavor::range) return false;
  return a.items.size() == b.items.size() &&
         std::equal(a.items.begin(), a.items.end(), b.items.begin(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key);
    if (other == nullptr || !equal(value, *other)) return false;
  }
  return true;
}

}  // namespace

double Value::real() const {
  return is_real() ? std::get<double>(state_) : static_cast<double>(integer());
}
std::string_view Value::text() const {
  return str().text;
}
bool Value::same_identity(const Value& other) const {
  if (state_.index() != other.state_.index()) return false;
  if (is_str()) return &str() == &other.str() || str().text == other.str().text;
  if (is_sequence()) return &list() == &other.list();
  if (is_dict()) return &dict() == &other.dict();
  if (is_object()) return object() == other.object();
  return is_none() || equal(*this, other);
}
int Value::depth() const {
  if (is_sequence()) return list().depth;
  return is_dict() ? dict().depth : 0;
}
std::size_t Value::weight() const {
  if (is_sequence()) return list().weight;
  if (is_dict()) return dict().weight;
  return is_str() ? 1 + text().size() / 64 : 1;
}
std::size_t add_weights(std::size_t a, std::size_t b) {
  std::size_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? ~std::size_t{0} / 2 : sum;
}

void Meter::take(std::size_t bytes) {
  if (bytes > limit_ - live_)
    fail(Code::resource_exhausted,
         fmt::format("the template's values need more than {} bytes of memory", limit_));
  live_ += bytes;
}
Lease::Lease(Meter* meter, std::size_t bytes) : meter_(meter), bytes_(bytes) {
  if (meter != nullptr) meter->take(bytes);
}
Lease::~Lease() {
  if (meter_ != nullptr) meter_->give(bytes_);
}

bool KeyLess::operator()(const Value& a, const Value& b) const {
  const int ranks[] = {key_rank(a), key_rank(b)};
  if (ranks[0] != ranks[1]) return ranks[0] < ranks[1];
  switch (ranks[0]) {
    case 0: return false;
    case 1: return compare_numbers(a, b) < 0;
    case 2: return a.text() < b.text();
    case 3: {
      const auto &x = a.list().items, &y = b.list().items;
      return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end(), KeyLess());
    }
    default: return a.is_object() && b.is_object() && std::less<>()(a.object(), b.object());
  }
}

std::size_t Dict::position(const Value& key) const {
  if (!index_.empty()) {
    const auto found = index_.find(key);
    return found == index_.end() ? entries.size() : found->second;
  }
  std::size_t at = 0;
  while (at < entries.size() && !equal(entries[at].first, key)) ++at;
  return at;
}

void Dict::set(const Value& key, Value value) {
  depth = std::max({depth, 1 + value.depth(), 1 + key.depth()});
  weight = add_weights(weight, add_weights(key.weight(), value.weight()));
  const std::size_t at = position(key);
  if (at < entries.size()) {
    entries[at].second = std::move(value);
    return;
  }
  entries.emplace_back(key, std::move(value));
  if (!index_.empty()) {
    index_.emplace(key, at);
  } else if (entries.size() > kScanned) {
    for (std::size_t i = 0; i < entries.size(); ++i) index_.emplace(entries[i].first, i);
  }
}

const Value* Dict::find(const Value& key) const {
  const std::size_t at = position(key);
  return at < entries.size() ? &entries[at].second : nullptr;
}
const Value* Dict::find(std::string_view key) const {
  if (index_.empty()) {
    for (const auto& [name, value] : entries)
      if (name.is_str() && name.text() == key) return &value;
    return nullptr;
  }
  auto probe = std::make_shared<Str>();
  probe->text = key;
  return find(Value(StrPtr(std::move(probe))));
}

std::string_view type_name(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is_bool()) return "bool";
  if (value.is_int()) return "int";
  if (value.is_real()) return "float";
  if (value.is_str()) return value.str().markup ? "Markup" : "str";
  if (value.is_dict()) return "dict";
  if (value.is_object()) return value.object()->type_name();
  switch (value.list().flavor) {
    case Flavor::list: return "list";
    case Flavor::tuple: return "tuple";
    case Flavor::range: return "range";
    case Flavor::generator: return "generator";
    case Flavor::keys: return "dict_keys";
    case Flavor::values: return "dict_values";
    case Flavor::items: return "dict_items";
  }
  return "object";
}

bool truthy(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_bool()) return value.boolean();
  if (value.is_int()) return value.integer() != 0;
  if (value.is_real()) return value.real() != 0;
  if (value.is_str()) return !value.text().empty();
  if (value.is_dict()) return !value.dict().entries.empty();
  if (value.is_sequence())
    return value.list().flavor == Flavor::generator || !value.list().items.empty();
  return true;
}

bool hashable(const Value& value) {
  if (value.is_dict()) return false;
  if (!value.is_sequence()) return true;
  const List& list = value.list();
  if (list.flavor == Flavor::list || list.flavor > Flavor::generator) return false;
  return std::all_of(list.items.begin(), list.items.end(), hashable);
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    return a.real() == b.real();
  }
  if (a.is_str() && b.is_str()) return a.text() == b.text();
  if (a.is_sequence() && b.is_sequence()) return equal_lists(a.list(), b.list());
  if (a.is_dict() && b.is_dict())
    return a.dict_ptr() == b.dict_ptr() || equal_dicts(a.dict(), b.dict());
  if (a.is_object() && b.is_object()) return a.object() == b.object();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

int compare(const Value& a, const Value& b, std::string_view op) {
  if (a.is_number() && b.is_number()) {
    const bool nan = std::isnan(a.real()) || std::isnan(b.real());
    return nan ? 2 : compare_numbers(a, b);
  }
  if (a.is_str() && b.is_str()) {
    const int order = a.text().compare(b.text());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  const bool lists = a.is_sequence() && b.is_sequence() && a.list().flavor == b.list().flavor;
  if (lists && a.list().flavor <= Flavor::tuple) {
    const auto &x = a.list().items, &y = b.list().items;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(x[i], y[i])) return compare(x[i], y[i], op);
    return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
  }
  for (const Value* v : {&a, &b})
    if (v->is_undefined())
      wrong("{}", v->undefined().why ? v->undefined().why->text : "value is undefined");
  wrong("'{}' not supported between instances of '{}' and '{}'", op, type_name(a), type_name(b));
}

}  // namespace herd::chat
