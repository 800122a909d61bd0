// The few constructs that Apple's compiler, the emulator and the lint spell differently. Kernels
// keep to `kernel void`, scalars and simdgroup matrices, float literals with f, no double, no
// lambdas.
#pragma once

#if defined(HERD_EMULATED_MSL)
#define HERD_JOIN2(a, b) a##b
#define HERD_JOIN(a, b) HERD_JOIN2(a, b)
#define TG_ARRAY(T, name, n)           \
  static const char key_of_##name = 0; \
  T(&name)                             \
  [n] = *static_cast<T(*)[n]>(         \
      ::herd::metal::emulation::threadgroup_array(&key_of_##name, sizeof(T) * (n)))
#define REGISTER_KERNEL(name, fn, ...)                                                   \
  static const ::herd::metal::emulation::Registered HERD_JOIN(registered_, __COUNTER__)( \
      name, fn, &::herd::metal::emulation::Caller<__VA_ARGS__>::call,                    \
      ::herd::metal::emulation::Caller<__VA_ARGS__>::arity)
#define INSTANTIATE_KERNEL(name, fn, ...) REGISTER_KERNEL(name, #fn, &fn<__VA_ARGS__>)
#define EXPORT_KERNEL(fn) REGISTER_KERNEL(#fn, #fn, &fn)
#elif defined(HERD_MSL_LINT)
#define HERD_JOIN2(a, b) a##b
#define HERD_JOIN(a, b) HERD_JOIN2(a, b)
#define TG_ARRAY(T, name, n) auto& name = ::lint_array<T, (n)>()
#define INSTANTIATE_KERNEL(name, fn, ...) \
  static auto HERD_JOIN(instance_, __COUNTER__) = &fn<__VA_ARGS__>
#define EXPORT_KERNEL(fn) static auto HERD_JOIN(instance_, __COUNTER__) = &fn
#else
#define TG_ARRAY(T, name, n) threadgroup T name[n]
#define INSTANTIATE_KERNEL(name, fn, ...) \
  template [[host_name(name)]] [[kernel]] decltype(fn<__VA_ARGS__>) fn<__VA_ARGS__>
#define EXPORT_KERNEL(fn) static_assert(true, "")
#endif
