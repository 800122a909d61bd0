// The values a template works on: Python's, as far as a template can see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace herd::chat {

using Int = __int128;

struct Str;
struct List;
struct Dict;
struct Object;
using StrPtr = std::shared_ptr<const Str>;
using ListPtr = std::shared_ptr<List>;
using DictPtr = std::shared_ptr<const Dict>;

/// An absent variable, attribute or item; `why` is the message of the error it turns into.
struct Undefined {
  StrPtr why;
};
struct None {};

/// Small, copied freely; strings, lists and dicts are shared and never change. Objects belong to
/// the Heap of the render.
class Value {
 public:
  Value() : state_(Undefined{}) {}
  Value(Undefined value) : state_(std::move(value)) {}  // NOLINT: values convert
  Value(None value) : state_(value) {}                  // NOLINT
  Value(bool value) : state_(value) {}                  // NOLINT
  Value(Int value) : state_(value) {}                   // NOLINT
  Value(double value) : state_(value) {}                // NOLINT
  Value(StrPtr value) : state_(std::move(value)) {}     // NOLINT
  Value(ListPtr value) : state_(std::move(value)) {}    // NOLINT
  Value(DictPtr value) : state_(std::move(value)) {}    // NOLINT
  Value(Object* value) : state_(value) {}               // NOLINT
  static Value integer(std::size_t value) { return Value(static_cast<Int>(value)); }

  bool is_undefined() const { return holds<Undefined>(); }
  bool is_none() const { return holds<None>(); }
  bool is_bool() const { return holds<bool>(); }
  bool is_int() const { return holds<Int>(); }  // not bool
  bool is_real() const { return holds<double>(); }
  bool is_number() const { return is_bool() || is_int() || is_real(); }
  bool is_integral() const { return is_bool() || is_int(); }
  bool is_str() const { return holds<StrPtr>(); }
  bool is_sequence() const { return holds<ListPtr>(); }  // any flavour of List
  bool is_dict() const { return holds<DictPtr>(); }
  bool is_object() const { return holds<Object*>(); }

  // REQUIRES: the value is of that kind.
  const Undefined& undefined() const { return std::get<Undefined>(state_); }
  bool boolean() const { return std::get<bool>(state_); }
  Int integer() const { return is_bool() ? Int{boolean()} : std::get<Int>(state_); }
  double real() const;  // of any number
  const Str& str() const { return *std::get<StrPtr>(state_); }
  List& list() const { return *std::get<ListPtr>(state_); }
  const ListPtr& list_ptr() const { return std::get<ListPtr>(state_); }
  const Dict& dict() const { return *std::get<DictPtr>(state_); }
  const DictPtr& dict_ptr() const { return std::get<DictPtr>(state_); }
  Object* object() const { return std::get<Object*>(state_); }
  std::string_view text() const;

  /// The object as a T, or nullptr.
  template <class T>
  T* as() const {
    return is_object() ? dynamic_cast<T*>(object()) : nullptr;
  }
  bool same_identity(const Value& other) const;
  /// Levels of lists and dicts inside each other; 0 for scalars.
  int depth() const;
  /// What visiting every value inside costs, values that are shared counted each time; saturates.
  std::size_t weight() const;

 private:
  template <class T>
  bool holds() const {
    return std::holds_alternative<T>(state_);
  }
  std::variant<Undefined, None, bool, Int, double, StrPtr, ListPtr, DictPtr, Object*> state_;
};

/// Counts the bytes of the values that are alive.
class Meter {
 public:
  explicit Meter(std::size_t limit) : limit_(limit) {}
  std::size_t limit() const { return limit_; }
  void take(std::size_t bytes);  // fails beyond the limit
  void give(std::size_t bytes) { live_ -= bytes; }

 private:
  std::size_t limit_, live_ = 0;
};

/// The bytes one value holds of its meter, given back with it.
class Lease {
 public:
  Lease() = default;
  Lease(Meter* meter, std::size_t bytes);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Lease(Lease&& other) noexcept
      : meter_(std::exchange(other.meter_, nullptr)), bytes_(other.bytes_) {}
  Lease& operator=(Lease&& other) noexcept {
    std::swap(meter_, other.meter_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Lease();

 private:
  Meter* meter_ = nullptr;
  std::size_t bytes_ = 0;
};

struct Str {
  std::string text;        // valid UTF-8
  std::size_t points = 0;  // code points
  bool markup = false;     // made by `safe` or `escape`: `+` escapes what is joined to it
  Lease lease;

  bool ascii() const { return points == text.size(); }
};

enum class Flavor : std::uint8_t { list, tuple, range, generator, keys, values, items };

struct List {
  std::vector<Value> items;
  Flavor flavor = Flavor::list;
  bool group = false;    // a tuple of groupby: .grouper and .list
  std::size_t next = 0;  // generator: items taken so far
  int depth = 1;
  std::size_t weight = 1;
  Lease lease;
};

/// Orders what can be a key: None, numbers, strings, tuples.
struct KeyLess {
  bool operator()(const Value& a, const Value& b) const;
};

/// In order of insertion. Built by one owner, then shared as const.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
  std::size_t weight = 1;
  Lease lease;

  /// REQUIRES: hashable(key). A key that is there keeps its place.
  void set(const Value& key, Value value);
  const Value* find(const Value& key) const;  // nullptr if absent
  const Value* find(std::string_view key) const;

 private:
  std::size_t position(const Value& key) const;  // entries.size() if absent
  std::map<Value, std::size_t, KeyLess> index_;  // once there are more than a few
};

/// What has identity: namespaces, macros, loops, functions. Owned by the Heap.
struct Object {
  virtual ~Object() = default;
  virtual std::string_view type_name() const = 0;
};

std::size_t add_weights(std::size_t a, std::size_t b);  // saturates

std::string_view type_name(const Value& value);  // as Python spells it
bool truthy(const Value& value);
bool hashable(const Value& value);
bool equal(const Value& a, const Value& b);
/// -1, 0, 1; fails with Python's words where the two have no order. `op` is for the message.
int compare(const Value& a, const Value& b, std::string_view op);

}  // namespace herd::chat
