// The part of the Objective-C runtime that metal-cpp calls; emulation/objc.cc defines it.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {
struct objc_object {
  void* isa;
};
struct objc_class;
struct objc_selector;
typedef objc_object* id;
typedef objc_class* Class;
typedef objc_selector* SEL;
typedef objc_object Protocol;
typedef signed char BOOL;
SEL sel_registerName(const char* name);
Class objc_lookUpClass(const char* name);
Class objc_getClass(const char* name);
Protocol* objc_getProtocol(const char* name);
}
