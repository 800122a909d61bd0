// The software Metal device: the classes that metal-cpp talks to. Commands of a buffer run when
// somebody waits for it, so that a host that looks too early sees old data. Misuse that Metal's
// validation layer would report ends the command buffer with an error.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "backend/metal/emulation/launch.h"
#include "backend/metal/emulation/objects.h"
#include "base/environment.h"

#ifdef HERD_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace herd::metal::emulation {
namespace {

using Unsigned = unsigned long;  // NSUInteger
constexpr Unsigned kNotEnqueued = 0, kCommitted = 2, kCompleted = 4, kFailed = 5;
constexpr std::size_t kGuard = 64;
constexpr std::byte kGuardByte{0xA5};

struct Size {  // MTLSize
  Unsigned width, height, depth;
};

struct String : Object {
  std::string text;
};
struct Problem : Object {
  std::string text;
};

/// Memory between guards: the address sanitizer watches them, otherwise they are looked at after
/// each launch. Or somebody else's memory.
struct Buffer : Object {
  std::byte* block = nullptr;
  std::byte* others = nullptr;
  std::size_t bytes = 0;
  std::byte* data() const { return others != nullptr ? others : block + kGuard; }
  bool intact() const {
#ifdef HERD_EMULATION_ASAN
    return true;
#else
    if (others != nullptr) return true;
    for (std::size_t i = 0; i < kGuard; ++i)
      if (block[i] != kGuardByte || data()[bytes + i] != kGuardByte) return false;
    return true;
#endif
  }
  ~Buffer() {
    if (block == nullptr) return;
#ifdef HERD_EMULATION_ASAN
    __asan_unpoison_memory_region(block, bytes + 2 * kGuard);
#endif
    std::free(block);
  }
};

/// What stands for a metallib: this, then the kernels' source.
constexpr std::string_view kLibraryHead = "emulated metallib\n";
struct Data {  // dispatch_data_t
  std::string bytes;
};

struct Library : Object {
  std::string source;
};
struct Function : Object {
  const KernelEntry* entry = nullptr;
  std::vector<Parameter> parameters;
};
struct Pipeline : Object {
  Held<Function> function;
  Unsigned max_threads = kMaxThreads;
};

struct Command {
  Held<Pipeline> pipeline;
  std::array<Held<Buffer>, kBuffers> buffers;
  std::array<std::size_t, kBuffers> offsets = {};
  std::array<std::vector<std::byte>, kBuffers> bytes;
  Size3 groups, threads;
};

struct Device : Object {
  Order order;
  Unsigned max_threads = kMaxThreads;
};
struct CommandBuffer;
struct Queue : Object {
  Held<Device> device;
  std::deque<Held<CommandBuffer>> waiting;  // committed, in order
};
struct CommandBuffer : Object {
  Queue* queue = nullptr;
  std::vector<Command> commands;
  Unsigned status = kNotEnqueued;
  bool encoding = false;
  double start = 0, end = 0;  // of running, in seconds
  std::string error;
  void wrong(std::string what) {
    if (error.empty()) error = std::move(what);
  }
};
struct Encoder : Object {
  Held<CommandBuffer> buffer;
  Command next;
  bool ended = false;
};

String* text(std::string value) {
  auto* s = make<String>("NSString");
  s->text = std::move(value);
  return s;
}

Problem* problem(std::string what) {
  auto* e = make<Problem>("NSError");
  e->text = std::move(what);
  return e;
}

// ---- autorelease pools ----

std::vector<std::vector<Object*>>& pools() {
  thread_local std::vector<std::vector<Object*>> all;
  return all;
}
Object* autorelease(Object* o) {
  if (!pools().empty()) pools().back().push_back(o);
  return o;
}
void drain_pool() {
  const std::vector<Object*> objects = std::move(pools().back());
  pools().pop_back();
  for (Object* o : objects) release(o);
}
// ---- running ----

std::string run_command(const Command& c, const Order& order) {
  const Function& function = *c.pipeline->function.get();
  Launch launch;
  launch.kernel = function.entry;
  launch.parameters = &function.parameters;
  launch.groups = c.groups;
  launch.threads = c.threads;
  for (std::size_t i = 0; i < kBuffers; ++i) {
    if (!c.bytes[i].empty())
      launch.bindings[i] = {const_cast<std::byte*>(c.bytes[i].data()), c.bytes[i].size()};
    else if (c.buffers[i].get() != nullptr)
      launch.bindings[i] = {c.buffers[i]->data() + c.offsets[i],
                            c.buffers[i]->bytes - c.offsets[i]};
  }
  std::string wrong = run(launch, order);
  for (std::size_t i = 0; i < kBuffers && wrong.empty(); ++i)
    if (c.buffers[i].get() != nullptr && !c.buffers[i]->intact())
      wrong = fmt::format("kernel {}: a write outside of buffer {}", launch.kernel->name, i);
  return wrong;
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void run_until(Queue& queue, const CommandBuffer* last) {
  while (!queue.waiting.empty()) {
    const Held<CommandBuffer> buffer = queue.waiting.front();
    queue.waiting.pop_front();
    buffer->start = seconds_now();
    for (const Command& c : buffer->commands) {
      if (!buffer->error.empty()) break;
      buffer->wrong(run_command(c, queue.device->order));
    }
    buffer->end = seconds_now();
    buffer->status = buffer->error.empty() ? kCompleted : kFailed;
    buffer->commands.clear();
    if (buffer.get() == last) return;
  }
}

void check_dispatch(Encoder& e, Size groups, Size threads) {
  CommandBuffer& b = *e.buffer.get();
  if (e.ended) return b.wrong("a dispatch after endEncoding");
  if (e.next.pipeline.get() == nullptr) return b.wrong("a dispatch without a pipeline");
  const Pipeline& p = *e.next.pipeline.get();
  const Unsigned n = threads.width * threads.height * threads.depth;
  if (n == 0 || n > p.max_threads)
    return b.wrong(
        fmt::format("kernel {}: {} threads in a threadgroup, "
                    "maxTotalThreadsPerThreadgroup is {}",
                    p.function->entry->name, n, p.max_threads));
  if (groups.width * groups.height * groups.depth == 0)
    return b.wrong(
        fmt::format("kernel {}: a dispatch of no threadgroups", p.function->entry->name));
}

// ---- methods ----

template <class F>
void method(Class& c, const char* name, F* function) {
  c.methods[selector(name)] = reinterpret_cast<const void*>(function);
}
using Sel = const void*;

void object_methods(Class& c) {
  method(
      c, "retain", +[](Object* o, Sel) -> Object* { return retain(o), o; });
  method(
      c, "release", +[](Object* o, Sel) { release(o); });
  method(
      c, "autorelease", +[](Object* o, Sel) -> Object* { return autorelease(o); });
  method(
      c, "init", +[](Object* o, Sel) -> Object* { return o; });
}

void text_methods(Class& c, Class& meta) {
  method(
      meta, "stringWithCString:encoding:", +[](Object*, Sel, const char* s, Unsigned) -> Object* {
        return autorelease(text(s));
      });
  method(
      c, "UTF8String", +[](String* s, Sel) -> const char* { return s->text.c_str(); });
}

void pool_methods(Class& c, Class& meta) {
  method(
      meta, "alloc", +[](Object*, Sel) -> Object* {
        pools().emplace_back();
        return make<Object>("NSAutoreleasePool");
      });
  method(
      c, "release", +[](Object* o, Sel) { drain_pool(), release(o); });
}

Object* new_buffer(Device*, Sel, Unsigned bytes, Unsigned) {
  auto* block = static_cast<std::byte*>(std::malloc(bytes + 2 * kGuard));
  if (block == nullptr) return nullptr;
  auto* b = make<Buffer>("MTLBuffer");
  b->block = block;
  b->bytes = bytes;
  std::memset(block, static_cast<int>(kGuardByte), kGuard);
  std::memset(b->data(), 0xFF, bytes);
  std::memset(b->data() + bytes, static_cast<int>(kGuardByte), kGuard);
#ifdef HERD_EMULATION_ASAN
  __asan_poison_memory_region(block, kGuard);
  __asan_poison_memory_region(b->data() + bytes, kGuard);
#endif
  return b;
}

/// Whole pages only, as Metal has it.
Object* new_buffer_of_others(Device*, Sel, std::byte* data, Unsigned bytes, Unsigned, void*) {
  const auto page = static_cast<Unsigned>(sysconf(_SC_PAGESIZE));
  if (reinterpret_cast<std::uintptr_t>(data) % page != 0 || bytes % page != 0 || bytes == 0)
    return nullptr;
  auto* b = make<Buffer>("MTLBuffer");
  b->others = data;
  b->bytes = bytes;
  return b;
}

void device_methods(Class& c) {
  method(
      c, "name", +[](Device*, Sel) -> Object* { return autorelease(text("emulated GPU")); });
  method(
      c, "recommendedMaxWorkingSetSize", +[](Device*, Sel) -> unsigned long long { return 0; });
  method(
      c, "maxBufferLength", +[](Device*, Sel) -> Unsigned { return Unsigned{1} << 36; });
  method(c, "newBufferWithLength:options:", &new_buffer);
  method(c, "newBufferWithBytesNoCopy:length:options:deallocator:", &new_buffer_of_others);
  method(
      c, "newCommandQueue", +[](Device* d, Sel) -> Object* {
        auto* q = make<Queue>("MTLCommandQueue");
        q->device = Held<Device>(d);
        return q;
      });
  method(
      c, "newLibraryWithSource:options:error:",
      +[](Device*, Sel, String* source, Object*, Object**) -> Object* {
        auto* l = make<Library>("MTLLibrary");
        l->source = source->text;
        return l;
      });
  method(
      c, "newLibraryWithData:error:", +[](Device*, Sel, Data* data, Object** error) -> Object* {
        if (!data->bytes.starts_with(kLibraryHead)) {
          *error = autorelease(problem("not a library of the emulator's"));
          return nullptr;
        }
        auto* l = make<Library>("MTLLibrary");
        l->source = data->bytes.substr(kLibraryHead.size());
        return l;
      });
  method(
      c, "newComputePipelineStateWithFunction:error:",
      +[](Device* d, Sel, Function* f, Object**) -> Object* {
        auto* p = make<Pipeline>("MTLComputePipelineState");
        p->function = Held<Function>(f);
        p->max_threads = d->max_threads;
        return p;
      });
}

Object* new_function(Library* library, Sel, String* name) {
  const KernelEntry* entry = find_kernel(name->text);
  if (entry == nullptr) return nullptr;
  std::string error;
  auto parameters = reflect(library->source, entry->function, error);
  if (!error.empty() || parameters.size() != entry->arity) return nullptr;
  auto* f = make<Function>("MTLFunction");
  f->entry = entry;
  f->parameters = std::move(parameters);
  return f;
}

void command_buffer_methods(Class& c) {
  method(
      c, "computeCommandEncoder", +[](CommandBuffer* b, Sel) -> Object* {
        if (b->encoding) b->wrong("a second encoder before endEncoding");
        b->encoding = true;
        auto* e = make<Encoder>("MTLComputeCommandEncoder");
        e->buffer = Held<CommandBuffer>(b);
        return autorelease(e);
      });
  method(
      c, "commit", +[](CommandBuffer* b, Sel) {
        if (b->encoding) b->wrong("commit before endEncoding");
        if (b->status != kNotEnqueued) return b->wrong("commit of a committed buffer");
        b->status = kCommitted;
        b->queue->waiting.emplace_back(b);
      });
  method(
      c, "waitUntilCompleted", +[](CommandBuffer* b, Sel) {
        if (b->status == kNotEnqueued) return b->wrong("waitUntilCompleted before commit");
        if (b->status == kCommitted) run_until(*b->queue, b);
      });
  method(
      c, "status", +[](CommandBuffer* b, Sel) -> Unsigned { return b->status; });
  method(
      c, "error", +[](CommandBuffer* b, Sel) -> Object* {
        if (b->error.empty()) return nullptr;
        return autorelease(problem(b->error));
      });
  method(
      c, "GPUStartTime", +[](CommandBuffer* b, Sel) -> double { return b->start; });
  method(
      c, "GPUEndTime", +[](CommandBuffer* b, Sel) -> double { return b->end; });
}

void encoder_methods(Class& c) {
  method(
      c, "setComputePipelineState:", +[](Encoder* e, Sel, Pipeline* p) {
        e->next.pipeline = Held<Pipeline>(p);
      });
  method(
      c, "setBuffer:offset:atIndex:", +[](Encoder* e, Sel, Buffer* b, Unsigned offset, Unsigned i) {
        if (i >= kBuffers) return e->buffer->wrong(fmt::format("buffer index {} is over 30", i));
        if (b != nullptr && offset >= b->bytes)
          return e->buffer->wrong(
              fmt::format("buffer {}: offset {} in {} bytes", i, offset, b->bytes));
        e->next.buffers[i] = Held<Buffer>(b);
        e->next.offsets[i] = offset;
        e->next.bytes[i].clear();
      });
  method(
      c,
      "setBytes:length:atIndex:", +[](Encoder* e, Sel, const std::byte* p, Unsigned n, Unsigned i) {
        if (i >= kBuffers || n > kMostBytes || n == 0)
          return e->buffer->wrong(fmt::format("setBytes: {} bytes at index {}", n, i));
        e->next.bytes[i].assign(p, p + n);
      });
  method(
      c, "dispatchThreadgroups:threadsPerThreadgroup:",
      +[](Encoder* e, Sel, Size groups, Size threads) {
        check_dispatch(*e, groups, threads);
        const auto size = [](const Size& s) {
          return Size3{static_cast<std::uint32_t>(s.width), static_cast<std::uint32_t>(s.height),
                       static_cast<std::uint32_t>(s.depth)};
        };
        e->next.groups = size(groups);
        e->next.threads = size(threads);
        e->buffer->commands.push_back(e->next);
      });
  method(
      c, "endEncoding", +[](Encoder* e, Sel) {
        if (e->ended) e->buffer->wrong("endEncoding twice");
        e->ended = true;
        e->buffer->encoding = false;
      });
}

}  // namespace

void install_methods(Class& c, Class& meta) {
  const std::string_view name = c.name;
  object_methods(c);
  if (name == "NSString") text_methods(c, meta);
  if (name == "NSAutoreleasePool") pool_methods(c, meta);
  if (name == "NSError")
    method(
        c, "localizedDescription",
        +[](Problem* e, Sel) -> Object* { return autorelease(text(e->text)); });
  if (name == "MTLCompileOptions") {
    method(
        meta, "alloc", +[](Object*, Sel) -> Object* { return make<Object>("MTLCompileOptions"); });
    method(
        c, "setFastMathEnabled:", +[](Object*, Sel, bool) {});
  }
  if (name == "MTLDevice") device_methods(c);
  if (name == "MTLLibrary") method(c, "newFunctionWithName:", &new_function);
  if (name == "MTLComputePipelineState")
    method(
        c, "maxTotalThreadsPerThreadgroup",
        +[](Pipeline* p, Sel) -> Unsigned { return p->max_threads; });
  if (name == "MTLCommandQueue")
    method(
        c, "commandBuffer", +[](Queue* q, Sel) -> Object* {
          auto* b = make<CommandBuffer>("MTLCommandBuffer");
          b->queue = q;
          return autorelease(b);
        });
  if (name == "MTLBuffer") {
    method(
        c, "contents", +[](Buffer* b, Sel) -> void* { return b->data(); });
    method(
        c, "length", +[](Buffer* b, Sel) -> Unsigned { return b->bytes; });
  }
  if (name == "MTLCommandBuffer") command_buffer_methods(c);
  if (name == "MTLComputeCommandEncoder") encoder_methods(c);
}

}  // namespace herd::metal::emulation

extern "C" void* dispatch_data_create(const void* bytes, std::size_t count, void*, const void*) {
  using herd::metal::emulation::Data;
  return new Data{{static_cast<const char*>(bytes), count}};
}
extern "C" void dispatch_release(void* data) {
  using herd::metal::emulation::Data;
  delete static_cast<Data*>(data);
}
extern "C" void* MTLCreateSystemDefaultDevice() {
  using namespace herd::metal::emulation;
  auto* device = make<Device>("MTLDevice");
  const std::string order = herd::environment_text("HERD_EMULATOR_ORDER");
  if (order == "reverse") device->order.kind = Order::reverse;
  if (order.starts_with("random")) {
    device->order.kind = Order::random;
    device->order.seed = std::strtoull(order.substr(6).c_str(), nullptr, 10);
  }
  const std::string threads = herd::environment_text("HERD_EMULATOR_THREADS");
  if (!threads.empty()) device->max_threads = std::strtoul(threads.c_str(), nullptr, 10);
  return device;
}
