// The scheduler: one fiber per GPU thread of a threadgroup, on one CPU thread.
// Compiled without sanitizers, which are told of every switch instead.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "backend/metal/emulation/launch.h"
#include "base/rng.h"

#ifdef HERD_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HERD_EMULATION_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

// herd_fiber_switch(save, load): keeps the callee-saved registers on the stack, exchanges stacks.
extern "C" void herd_fiber_switch(void** save, void* load);
asm(R"(.text
.globl herd_fiber_switch
.type herd_fiber_switch,@function
herd_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size herd_fiber_switch,.-herd_fiber_switch
)");

namespace herd::metal::emulation {
namespace {

constexpr std::size_t kStack = 64 * 1024;
constexpr std::size_t kGap = 64;  // guarded bytes around each threadgroup array
constexpr std::size_t kArena = 2 * kThreadgroupMemory;
constexpr std::size_t kMostArrays = 64;

enum class State { ready, at_barrier, in_simdgroup, done };

struct Fiber {
  void* stack_pointer = nullptr;
  std::byte* stack = nullptr;
  State state = State::ready;
  std::uint32_t index = 0;
  Place place;
  void* value = nullptr;
  Collective op = nullptr;
  void* fake_stack = nullptr;
  void* tsan = nullptr;
  std::uint32_t barriers = 0, simd_barriers = 0;  // passed
};

struct Array {
  const void* key = nullptr;
  std::size_t first = 0, bytes = 0;  // in the arena
};

void guard(const std::byte* p, std::size_t n) {
#ifdef HERD_EMULATION_ASAN
  __asan_poison_memory_region(p, n);
#else
  static_cast<void>(p), static_cast<void>(n);
#endif
}
void unguard(const std::byte* p, std::size_t n) {
#ifdef HERD_EMULATION_ASAN
  __asan_unpoison_memory_region(p, n);
#else
  static_cast<void>(p), static_cast<void>(n);
#endif
}

/// One threadgroup at a time; its fibers' stacks are kept for the next.
class Group {
 public:
  Group() : fibers_(kMaxThreads), arena_(new std::byte[kArena]) {
    const std::size_t bytes = kMaxThreads * kStack;
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    stacks_ = p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
    for (std::uint32_t i = 0; stacks_ != nullptr && i < kMaxThreads; ++i) {
      fibers_[i].index = i;
      fibers_[i].stack = stacks_ + i * kStack;
    }
  }
  ~Group() {
    unguard(arena_.get(), kArena);
    if (stacks_ != nullptr) munmap(stacks_, kMaxThreads * kStack);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  std::string run(const Launch& launch, Size3 position, const Order& order, std::uint64_t number);

  // ---- from a fiber ----
  Fiber& running() { return *running_; }
  void park(State state, const Place& place) {
    running_->state = state;
    running_->place = place;
    to_scheduler();
  }
  void* array(const void* key, std::size_t bytes);
  void stop(const char* message) {
    stopped_ = message;  // the scheduler makes a text of it: memory of a fiber's is its own
    running_->state = State::done;
    for (;;) to_scheduler();
  }
  // Of a fiber's next barrier. Two take turns: a fiber that leaves a barrier late must not learn
  // from one object what others did up to the next.
  void* barrier_sync() { return &barrier_sync_[running_->barriers++ % 2]; }
  void* simd_sync() {
    return &simd_sync_[running_->index / kSimdWidth * 2 + running_->simd_barriers++ % 2];
  }
  Size3 builtin(Builtin which) const;
  const Launch* launch = nullptr;

 private:
  static void entry();
  void start();
  void run_ready(const Order& order, std::uint64_t& draw);
  void resume(Fiber& fiber);
  void to_scheduler();
  bool release_simdgroups();
  bool release_barrier();
  std::string check_arena() const;
  void forget_fibers();
  std::string finish();
  static std::string at(const Fiber& f) {
    if (f.place.line() == 0) return "before any barrier";
    const std::string_view file = f.place.file_name();
    return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), f.place.line());
  }

  std::vector<Fiber> fibers_;
  std::byte* stacks_ = nullptr;
  std::unique_ptr<std::byte[]> arena_;
  std::array<Array, kMostArrays> arrays_;
  std::size_t n_arrays_ = 0, used_ = 0, counted_ = 0;
  std::vector<std::uint32_t> turns_;
  std::uint32_t threads_ = 0;
  Size3 position_;
  Fiber* running_ = nullptr;
  void* scheduler_ = nullptr;
  const char* stopped_ = nullptr;  // by a fiber, with this message
  std::string fault_;
  void* scheduler_fake_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  std::size_t scheduler_size_ = 0;
  void* scheduler_tsan_ = nullptr;
  char start_sync_ = 0, end_sync_ = 0;
  std::array<char, 2> barrier_sync_ = {};
  std::array<char, 2 * kMaxThreads / kSimdWidth> simd_sync_ = {};
};

thread_local Group* current = nullptr;

// ---- switching ----

void Group::entry() {
  Group& g = *current;
#ifdef HERD_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &g.scheduler_bottom_, &g.scheduler_size_);
#endif
#ifdef HERD_EMULATION_TSAN
  __tsan_acquire(&g.start_sync_);
#endif
  g.launch->kernel->call(Arguments(*g.launch));
  g.running_->state = State::done;
#ifdef HERD_EMULATION_TSAN
  __tsan_release(&g.end_sync_);
#endif
  g.to_scheduler();
  __builtin_trap();
}

void Group::to_scheduler() {
  Fiber& f = *running_;
#ifdef HERD_EMULATION_ASAN
  __sanitizer_start_switch_fiber(f.state == State::done ? nullptr : &f.fake_stack,
                                 scheduler_bottom_, scheduler_size_);
#endif
#ifdef HERD_EMULATION_TSAN
  __tsan_switch_to_fiber(scheduler_tsan_, 1);  // 1: no synchronisation by the switch itself
#endif
  herd_fiber_switch(&f.stack_pointer, scheduler_);
#ifdef HERD_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(f.fake_stack, &scheduler_bottom_, &scheduler_size_);
#endif
}

void Group::resume(Fiber& fiber) {
  running_ = &fiber;
#ifdef HERD_EMULATION_ASAN
  __sanitizer_start_switch_fiber(&scheduler_fake_, fiber.stack, kStack);
#endif
#ifdef HERD_EMULATION_TSAN
  __tsan_switch_to_fiber(fiber.tsan, 1);
#endif
  herd_fiber_switch(&scheduler_, fiber.stack_pointer);
#ifdef HERD_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(scheduler_fake_, nullptr, nullptr);
#endif
}

// ---- one threadgroup ----

void Group::start() {
  fault_.clear();
  n_arrays_ = used_ = counted_ = 0;
  unguard(arena_.get(), kArena);
  std::memset(arena_.get(), 0xFF, kArena);
  guard(arena_.get(), kArena);
#ifdef HERD_EMULATION_TSAN
  scheduler_tsan_ = __tsan_get_current_fiber();
  __tsan_release(&start_sync_);
#endif
  for (std::uint32_t i = 0; i < threads_; ++i) {
    Fiber& f = fibers_[i];
    unguard(f.stack, kStack);
    f.state = State::ready;
    f.place = Place();
    f.barriers = f.simd_barriers = 0;
    f.fake_stack = nullptr;
    auto* sp = reinterpret_cast<void**>(f.stack + kStack);
    *--sp = nullptr;  // keeps the stack as a call would leave it: 8 below a multiple of 16
    *--sp = reinterpret_cast<void*>(&entry);
    for (int k = 0; k < 6; ++k) *--sp = nullptr;
    f.stack_pointer = sp;
#ifdef HERD_EMULATION_TSAN
    if (f.tsan == nullptr) f.tsan = __tsan_create_fiber(0);  // costly, so kept from group to group
#endif
  }
}

void Group::run_ready(const Order& order, std::uint64_t& draw) {
  if (order.kind == Order::random)
    for (std::size_t i = turns_.size(); i > 1; --i)
      std::swap(turns_[i - 1], turns_[counter_bits(order.seed, draw++) % i]);
  for (const std::uint32_t turn : turns_) {
    Fiber& f = fibers_[order.kind == Order::reverse ? threads_ - 1 - turn : turn];
    if (f.state != State::ready) continue;
    resume(f);
    if (stopped_ == nullptr) continue;
    fault_ = fmt::format("{}: {}", at(f), std::exchange(stopped_, nullptr));
    return;
  }
}

/// Lets go the simdgroups whose live lanes all wait at one place.
bool Group::release_simdgroups() {
  bool any = false;
  for (std::uint32_t first = 0; first < threads_; first += kSimdWidth) {
    const std::uint32_t end = std::min(threads_, first + kSimdWidth);
    std::uint32_t live = 0, waiting = 0, mask = 0;
    void* values[kSimdWidth] = {};
    const Fiber* one = nullptr;
    for (std::uint32_t i = first; i < end; ++i) {
      const Fiber& f = fibers_[i];
      live += f.state != State::done;
      if (f.state != State::in_simdgroup) continue;
      ++waiting;
      mask |= 1u << (i - first);
      values[i - first] = f.value;
      if (one == nullptr) one = &f;
      if (f.place.line() != one->place.line() || f.op != one->op) {
        fault_ = fmt::format("lanes of a simdgroup wait at {} and at {}", at(*one), at(f));
        return false;
      }
    }
    if (waiting == 0 || waiting != live) continue;
    if (one->op != nullptr)
      if (const char* wrong = one->op(values, mask); wrong != nullptr) {
        fault_ = fmt::format("{}: {}", at(*one), wrong);
        return false;
      }
    for (std::uint32_t i = first; i < end; ++i)
      if (fibers_[i].state == State::in_simdgroup) fibers_[i].state = State::ready;
    any = true;
  }
  return any;
}

bool Group::release_barrier() {
  std::uint32_t waiting = 0;
  const Fiber *one = nullptr, *other = nullptr;
  for (std::uint32_t i = 0; i < threads_; ++i) {
    const Fiber& f = fibers_[i];
    if (f.state != State::at_barrier) {
      if (other == nullptr || f.state != State::done) other = &f;
      continue;
    }
    ++waiting;
    if (one == nullptr) one = &f;
    if (f.place.line() != one->place.line()) other = &f;
  }
  if (waiting == 0 && other->state == State::done) return false;
  if (other != nullptr) {
    if (one == nullptr) one = other;
    fault_ =
        other->state == State::done
            ? fmt::format(
                  "threadgroup_barrier at {} not reached by all threads: some "
                  "have returned",
                  at(*one))
            : fmt::format("threads of a threadgroup wait at {} and at {}", at(*one), at(*other));
    return false;
  }
  for (std::uint32_t i = 0; i < threads_; ++i) fibers_[i].state = State::ready;
  return true;
}

std::string Group::run(const Launch& what, Size3 position, const Order& order,
                       std::uint64_t number) {
  if (stacks_ == nullptr) return "no memory for the emulator's stacks";
  launch = &what;
  position_ = position;
  threads_ = what.threads.x * what.threads.y * what.threads.z;
  turns_.resize(threads_);
  for (std::uint32_t i = 0; i < threads_; ++i) turns_[i] = i;
  start();
  std::uint64_t draw = number << 32;
  do {
    run_ready(order, draw);
  } while (fault_.empty() && (release_simdgroups() || (fault_.empty() && release_barrier())));
  return finish();
}

/// Fibers that never came to their end: nothing orders what they did before what comes next.
void Group::forget_fibers() {
#ifdef HERD_EMULATION_TSAN
  for (std::uint32_t i = 0; i < threads_; ++i) {
    __tsan_destroy_fiber(fibers_[i].tsan);
    fibers_[i].tsan = nullptr;
  }
  mmap(stacks_, kMaxThreads * kStack, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
#endif
}

std::string Group::finish() {
#ifdef HERD_EMULATION_TSAN
  __tsan_acquire(&end_sync_);
#endif
  if (!fault_.empty()) forget_fibers();
  if (fault_.empty()) fault_ = check_arena();
  return std::exchange(fault_, {});
}

// ---- threadgroup memory ----

void* Group::array(const void* key, std::size_t bytes) {
  for (std::size_t i = 0; i < n_arrays_; ++i)
    if (arrays_[i].key == key) return arena_.get() + arrays_[i].first;
  counted_ += (bytes + 15) / 16 * 16;
  const std::size_t first = used_ + kGap;
  used_ = (first + bytes + 15) / 16 * 16;
  if (counted_ > kThreadgroupMemory || n_arrays_ == kMostArrays || used_ + kGap > kArena)
    stop("threadgroup memory exceeds maxThreadgroupMemoryLength, 32768 bytes");
  arrays_[n_arrays_++] = {key, first, bytes};
  unguard(arena_.get() + first, bytes);
  return arena_.get() + first;
}

/// Nobody may have written between the arrays.
std::string Group::check_arena() const {
  unguard(arena_.get(), kArena);
  std::size_t at = 0;
  const auto clean = [&](std::size_t end) {
    for (; at < end; ++at)
      if (arena_[at] != std::byte{0xFF}) return false;
    return true;
  };
  for (std::size_t i = 0; i < n_arrays_; ++i) {
    if (!clean(arrays_[i].first)) return "a write outside of a threadgroup array";
    at = arrays_[i].first + arrays_[i].bytes;
  }
  if (!clean(std::min(kArena, used_ + kGap))) return "a write outside of a threadgroup array";
  return {};
}

Size3 Group::builtin(Builtin which) const {
  const std::uint32_t i = running_->index;
  const Size3 t = launch->threads;
  const Size3 local = {i % t.x, i / t.x % t.y, i / (t.x * t.y)};
  switch (which) {
    case Builtin::threadgroup_position_in_grid: return position_;
    case Builtin::thread_position_in_grid:
      return {position_.x * t.x + local.x, position_.y * t.y + local.y,
              position_.z * t.z + local.z};
    case Builtin::thread_position_in_threadgroup: return local;
    case Builtin::thread_index_in_threadgroup: return {i, 0, 0};
    case Builtin::thread_index_in_simdgroup: return {i % kSimdWidth, 0, 0};
    case Builtin::simdgroup_index_in_threadgroup: return {i / kSimdWidth, 0, 0};
    case Builtin::simdgroups_per_threadgroup:
      return {(threads_ + kSimdWidth - 1) / kSimdWidth, 0, 0};
    case Builtin::threads_per_threadgroup: return t;
    case Builtin::threadgroups_per_grid: return launch->groups;
    case Builtin::none: break;
  }
  return {};
}

}  // namespace

// ---- what kernels call ----

std::uint32_t lane() {
  return current->running().index % kSimdWidth;
}
void* threadgroup_array(const void* key, std::size_t bytes) {
  return current->array(key, bytes);
}
void fail(const char* message) {
  current->stop(message);
  __builtin_unreachable();
}

void simd_rendezvous(void* value, Collective op, bool fence, const Place& place) {
  Group& g = *current;
  g.running().value = value;
  g.running().op = op;
#ifdef HERD_EMULATION_TSAN
  void* sync = fence ? g.simd_sync() : nullptr;
  if (fence) __tsan_release(sync);
#endif
  g.park(State::in_simdgroup, place);
#ifdef HERD_EMULATION_TSAN
  if (fence) __tsan_acquire(sync);
#endif
  static_cast<void>(fence);
}

void threadgroup_rendezvous(bool fence, const Place& place) {
  Group& g = *current;
#ifdef HERD_EMULATION_TSAN
  void* sync = fence ? g.barrier_sync() : nullptr;
  if (fence) __tsan_release(sync);
#endif
  g.park(State::at_barrier, place);
#ifdef HERD_EMULATION_TSAN
  if (fence) __tsan_acquire(sync);
#endif
  static_cast<void>(fence);
}

std::byte* Arguments::buffer(std::size_t parameter, std::size_t least) const {
  const std::size_t index = (*launch_.parameters)[parameter].buffer;
  const Binding& b = launch_.bindings[index];
  if (b.data == nullptr) fail("a buffer of the kernel is not bound");
  if (b.bytes < least) fail("a buffer is shorter than the struct it is bound to");
  return b.data;
}
Size3 Arguments::builtin(std::size_t parameter) const {
  return current->builtin((*launch_.parameters)[parameter].builtin);
}

std::string run(const Launch& launch, const Order& order) {
  thread_local std::unique_ptr<Group> group;
  if (group == nullptr) group = std::make_unique<Group>();
  const std::uint64_t total = std::uint64_t{launch.groups.x} * launch.groups.y * launch.groups.z;
  const std::uint64_t shift = order.kind == Order::random ? counter_bits(order.seed, 0) : 0;
  current = group.get();
  for (std::uint64_t n = 0; n < total; ++n) {
    const std::uint64_t i =
        order.kind == Order::reverse ? total - 1 - n : (n + shift % total) % total;
    const Size3 position = {static_cast<std::uint32_t>(i % launch.groups.x),
                            static_cast<std::uint32_t>(i / launch.groups.x % launch.groups.y),
                            static_cast<std::uint32_t>(i / launch.groups.x / launch.groups.y)};
    if (const std::string fault = group->run(launch, position, order, n); !fault.empty())
      return fmt::format("kernel {}: {}", launch.kernel->name, fault);
  }
  return {};
}

}  // namespace herd::metal::emulation
