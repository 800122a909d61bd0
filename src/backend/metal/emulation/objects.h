// Objects of the small Objective-C runtime, and the Metal objects on it.
#pragma once

#include <atomic>
#include <string>
#include <unordered_map>

namespace herd::metal::emulation {

struct Class;

/// The first word is the class, as objc_msgSend expects.
struct Object {
  Class* isa = nullptr;
  std::atomic<long> count{1};
  void (*destroy)(Object*) = nullptr;
};

/// A class is an object of its meta class, which holds the class methods.
struct Class : Object {
  const char* name = "";
  std::unordered_map<const void*, const void*> methods;  // selector to function
};

Class* class_named(const char* name);
/// The one pointer that stands for a selector's name.
const void* selector(const char* name);
/// Fills in the methods of a class that is looked up for the first time.
void install_methods(Class& instance, Class& meta);

template <class T>
T* make(const char* class_name) {
  T* object = new T;
  object->isa = class_named(class_name);
  object->destroy = [](Object* o) { delete static_cast<T*>(o); };
  return object;
}
inline void retain(Object* o) {
  if (o != nullptr) ++o->count;
}
inline void release(Object* o) {
  if (o != nullptr && --o->count == 0 && o->destroy != nullptr) o->destroy(o);
}

/// A retained reference.
template <class T>
class Held {
 public:
  Held() = default;
  explicit Held(T* object) : object_(object) { retain(object_); }
  Held(const Held& other) : Held(other.object_) {}
  Held& operator=(Held other) {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Held() { release(object_); }
  T* operator->() const { return object_; }
  T* get() const { return object_; }

 private:
  T* object_ = nullptr;
};

}  // namespace herd::metal::emulation
