// What the walk puts up on its way in and takes down on its way out, also when it fails.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat/failure.h"
#include "chat/interpreter.h"

namespace herd::chat {

/// A level of the walk. Levels bound the machine stack; calls are what the template nests itself.
class Interpreter::Nest {
 public:
  enum Call { kCall };
  explicit Nest(Interpreter& walk) : walk_(walk) {
    constexpr int kLevelsPerDepth = 12;
    if (++walk_.depth_ > kLevelsPerDepth * walk_.heap_.limits().depth) too_deep();
  }
  Nest(Interpreter& walk, Call) : Nest(walk) {
    if (++walk_.calls_ > walk_.heap_.limits().depth) too_deep();
    call_ = true;
  }
  ~Nest() { leave(); }
  Nest(const Nest&) = delete;
  Nest& operator=(const Nest&) = delete;

 private:
  void leave() {
    --walk_.depth_;
    if (call_) --walk_.calls_;
  }
  [[noreturn]] void too_deep() const {
    fail(Code::resource_exhausted,
         fmt::format("macros and loops call each other too deeply; the limit is {}",
                     walk_.heap_.limits().depth));
  }
  Interpreter& walk_;
  bool call_ = false;
};

/// A new scope inside `parent`, in force until its end.
class Interpreter::Inner {
 public:
  Inner(Interpreter& walk, std::shared_ptr<Scope> parent, const std::vector<std::string>& unset)
      : walk_(walk) {
    auto scope = std::make_shared<Scope>();
    scope->parent = std::move(parent);
    walk.begin_unset(*scope, unset);
    before_ = std::exchange(walk_.scope_, std::move(scope));
  }
  ~Inner() { walk_.scope_ = std::move(before_); }
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;

 private:
  Interpreter& walk_;
  std::shared_ptr<Scope> before_;
};

/// Text goes here instead of where it went.
class Interpreter::Buffer {
 public:
  explicit Buffer(Interpreter& walk)
      : walk_(walk), text_(walk.heap_), before_(std::exchange(walk.out_, &text_)) {}
  ~Buffer() { walk_.out_ = before_; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::string take() const { return text_.take(); }

 private:
  Interpreter& walk_;
  mutable Text text_;
  Text* before_;
};

/// A loop that runs. Afterwards `loop` may still be held somewhere, but holds nothing itself.
class RunningLoop {
 public:
  RunningLoop(Heap& heap, std::vector<Value> items)
      : lease_(heap.lease(items.capacity() * sizeof(Value))), loop_(heap.object<Loop>()) {
    loop_->items = std::move(items);
  }
  ~RunningLoop() {
    loop_->items = {};
    loop_->scope.reset();
  }
  RunningLoop(const RunningLoop&) = delete;
  RunningLoop& operator=(const RunningLoop&) = delete;
  Loop* operator->() const { return loop_; }
  Loop* get() const { return loop_; }

 private:
  Lease lease_;
  Loop* loop_;
};

/// ns.attribute = value, as Hugging Face's namespaces allow it.
inline void set_attribute(Namespace& space, const Value& name, const Value& value) {
  if (name.is_str() && name.text().starts_with("_"))
    wrong("a namespace cannot store '{}': the name starts with an underscore", name.text());
  space.attributes.set(name, value);
}

}  // namespace herd::chat
