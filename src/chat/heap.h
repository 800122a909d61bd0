// One render's budget, and the only way to make values in it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/value.h"
#include "herd/chat.h"

namespace herd::chat {

/// Not thread-safe; outlives every value it made.
class Heap {
 public:
  explicit Heap(const ChatLimits& limits) : limits_(limits), meter_(limits.memory_bytes) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  const ChatLimits& limits() const { return limits_; }
  /// Fails with resource_exhausted once `steps` are used up.
  void step(std::size_t count = 1);
  /// A step for every KiB read or written.
  void work(std::size_t bytes) { step(bytes / 1024); }
  /// Fails where text of this size could never be held; asked before it is made.
  void room(std::size_t bytes) const;

  Value string(std::string text, bool markup = false);
  Value string(std::string text, const Value& like);  // markup where `like` is
  Value list(std::vector<Value> items, Flavor flavor = Flavor::list);
  Value dict(Dict dict);
  Value range(Int start, Int stop, Int stride);  // REQUIRES: stride != 0, few enough items
  template <class T, class... A>
  T* object(A&&... arguments) {
    charge_object(sizeof(T));
    objects_.push_back(std::make_unique<T>(std::forward<A>(arguments)...));
    return static_cast<T*>(objects_.back().get());
  }
  Lease lease(std::size_t bytes) { return Lease(&meter_, bytes); }
  Value undefined(std::string why);

  /// A string of the template itself, outside any budget.
  static Value constant(std::string text);

 private:
  void charge_object(std::size_t bytes);
  void check_depth(int depth) const;
  ChatLimits limits_;
  Meter meter_;
  std::vector<Lease> object_leases_;
  std::int64_t used_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

/// Text that grows within the budget.
class Text {
 public:
  explicit Text(Heap& heap) : heap_(heap) {}
  void add(std::string_view more);
  void add(char c) { add(std::string_view(&c, 1)); }
  void repeat(std::string_view piece, std::size_t times);
  std::size_t size() const { return text_.size(); }
  const std::string& view() const { return text_; }
  std::string take() { return std::move(text_); }
  Heap& heap() { return heap_; }

 private:
  Heap& heap_;
  std::string text_;
};

}  // namespace herd::chat
