// As much of an Objective-C runtime as metal-cpp needs: selectors, classes, objc_msgSend.
#include <objc/message.h>
#include <objc/runtime.h>

#include <map>
#include <set>
#include <string>

#include "backend/metal/emulation/objects.h"

namespace herd::metal::emulation {
namespace {

/// Classes live as long as the process: metal-cpp keeps them in statics.
std::map<std::string, Class*, std::less<>>& classes() {
  static auto* all = new std::map<std::string, Class*, std::less<>>;
  return *all;
}

}  // namespace

Class* class_named(const char* name) {
  Class*& found = classes()[name];
  if (found == nullptr) {
    auto* meta = new Class;
    found = new Class;
    meta->name = found->name = classes().find(name)->first.c_str();
    found->isa = meta;
    install_methods(*found, *meta);
  }
  return found;
}

const void* selector(const char* name) {
  static std::set<std::string, std::less<>> all;
  return all.emplace(name).first->c_str();
}

}  // namespace herd::metal::emulation

using herd::metal::emulation::Class;
using herd::metal::emulation::Object;

extern "C" {

SEL sel_registerName(const char* name) {
  return static_cast<SEL>(const_cast<void*>(herd::metal::emulation::selector(name)));
}
::Class objc_lookUpClass(const char* name) {
  return reinterpret_cast<::Class>(herd::metal::emulation::class_named(name));
}
::Class objc_getClass(const char* name) {
  return objc_lookUpClass(name);
}
Protocol* objc_getProtocol(const char*) {
  return nullptr;
}

/// The method that objc_msgSend jumps to. Nil answers everything with 0; a selector that is not
/// here is a mistake of whoever wrote the host code.
__attribute__((used)) const void* herd_objc_lookup(const Object* self, const void* selector) {
  static const auto nil = +[]() -> long { return 0; };
  if (self == nullptr) return reinterpret_cast<const void*>(nil);
  const auto found = self->isa->methods.find(selector);
  if (found == self->isa->methods.end()) __builtin_trap();
  return found->second;
}

// What metal-cpp names and nobody here calls.
void* MTLCopyAllDevices() {
  return nullptr;
}
void* MTLCopyAllDevicesWithObserver(void*, void*) {
  return nullptr;
}
void MTLRemoveDeviceObserver(void*) {}
void* _NSConcreteStackBlock[32];
void* _NSConcreteGlobalBlock[32];
void _Block_object_dispose(const void*, int) {}
void _Block_object_assign(void*, const void*, int) {}
}

// Keeps all argument registers, asks herd_objc_lookup, jumps there with the stack as it was.
asm(R"(.text
.macro HERD_SEND name, self, selector
.globl \name
.type \name,@function
\name:
  pushq %rbp
  movq %rsp, %rbp
  subq $192, %rsp
  movq %rdi, 0(%rsp)
  movq %rsi, 8(%rsp)
  movq %rdx, 16(%rsp)
  movq %rcx, 24(%rsp)
  movq %r8, 32(%rsp)
  movq %r9, 40(%rsp)
  movups %xmm0, 48(%rsp)
  movups %xmm1, 64(%rsp)
  movups %xmm2, 80(%rsp)
  movups %xmm3, 96(%rsp)
  movq %rax, 112(%rsp)
  movq \self, %rdi
  movq \selector, %rsi
  call herd_objc_lookup
  movq %rax, %r11
  movq 0(%rsp), %rdi
  movq 8(%rsp), %rsi
  movq 16(%rsp), %rdx
  movq 24(%rsp), %rcx
  movq 32(%rsp), %r8
  movq 40(%rsp), %r9
  movups 48(%rsp), %xmm0
  movups 64(%rsp), %xmm1
  movups 80(%rsp), %xmm2
  movups 96(%rsp), %xmm3
  movq 112(%rsp), %rax
  leave
  jmp *%r11
.size \name,.-\name
.endm
HERD_SEND objc_msgSend, 0(%rsp), 8(%rsp)
HERD_SEND objc_msgSend_fpret, 0(%rsp), 8(%rsp)
HERD_SEND objc_msgSend_stret, 8(%rsp), 16(%rsp)
)");
