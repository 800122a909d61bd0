// Metal through Apple's metal-cpp: the same code on macOS and over the emulator.
#define NS_PRIVATE_IMPLEMENTATION
#define MTL_PRIVATE_IMPLEMENTATION
#include "backend/metal/device.h"

#include <Foundation/Foundation.hpp>
#include <Metal/Metal.hpp>
#include <algorithm>
#include <deque>
#include <vector>

#include <dispatch/dispatch.h>

namespace herd::metal {
namespace {

class Pool {  // what metal-cpp autoreleases goes at the end of the scope
 public:
  Pool() : pool_(NS::AutoreleasePool::alloc()->init()) {}
  ~Pool() { pool_->release(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

 private:
  NS::AutoreleasePool* pool_;
};

NS::String* text(const std::string& s) {
  return NS::String::string(s.c_str(), NS::UTF8StringEncoding);
}
std::string message(const NS::Error* error) {
  if (error == nullptr) return "no reason given";
  return error->localizedDescription()->utf8String();
}

MTL::Library* compile(MTL::Device& device, std::string_view source, NS::Error** error) {
  MTL::CompileOptions* options = MTL::CompileOptions::alloc()->init();
  options->setFastMathEnabled(false);
  MTL::Library* library = device.newLibrary(text(std::string(source)), options, error);
  options->release();
  return library;
}
MTL::Library* load(MTL::Device& device, std::span<const std::byte> bytes, NS::Error** error) {
  dispatch_data_t data =
      dispatch_data_create(bytes.data(), bytes.size(), nullptr, DISPATCH_DATA_DESTRUCTOR_DEFAULT);
  MTL::Library* library = device.newLibrary(data, error);
  dispatch_release(data);
  return library;
}

}  // namespace

struct Device::Impl {
  MTL::Device* device = nullptr;
  MTL::CommandQueue* queue = nullptr;
  MTL::Library* library = nullptr;
  std::vector<MTL::ComputePipelineState*> pipelines;
  MTL::CommandBuffer* commands = nullptr;  // being collected
  MTL::ComputeCommandEncoder* encoder = nullptr;
  std::deque<MTL::CommandBuffer*> sent;
  std::uint64_t n_sent = 0, n_done = 0;
  double gpu_seconds = 0;

  MTL::ComputeCommandEncoder* encode() {
    if (encoder != nullptr) return encoder;
    const Pool pool;
    commands = queue->commandBuffer()->retain();
    encoder = commands->computeCommandEncoder()->retain();
    return encoder;
  }
};

Device::Device(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Device::~Device() {
  commit();
  static_cast<void>(wait(impl_->n_sent));
  for (auto* pipeline : impl_->pipelines) pipeline->release();
  if (impl_->library != nullptr) impl_->library->release();
  if (impl_->queue != nullptr) impl_->queue->release();
  if (impl_->device != nullptr) impl_->device->release();
}

Result<std::unique_ptr<Device>> Device::open(std::string_view source,
                                             std::span<const std::byte> library) {
  const Pool pool;
  std::unique_ptr<Device> opened(new Device(std::make_unique<Impl>()));
  Impl& d = *opened->impl_;
  d.device = MTL::CreateSystemDefaultDevice();
  if (d.device == nullptr) return Error{Code::unsupported, "device metal: no Metal device here"};
  d.queue = d.device->newCommandQueue();
  NS::Error* error = nullptr;
  d.library =
      library.empty() ? compile(*d.device, source, &error) : load(*d.device, library, &error);
  if (d.library == nullptr)
    return Error{Code::unsupported, std::string("device metal: the kernels do not ") +
                                        (library.empty() ? "compile: " : "load: ") +
                                        message(error)};
  if (d.queue == nullptr) return Error{Code::unsupported, "device metal: no command queue"};
  return opened;
}

std::string Device::name() const {
  const Pool pool;
  return impl_->device->name()->utf8String();
}

std::int64_t Device::memory() const {
  return static_cast<std::int64_t>(impl_->device->recommendedMaxWorkingSetSize());
}

Buffer Device::allocate(std::int64_t bytes) {
  const auto size = static_cast<NS::UInteger>(std::max<std::int64_t>(bytes, 16));
  if (size > impl_->device->maxBufferLength()) return {};
  MTL::Buffer* buffer = impl_->device->newBuffer(size, MTL::ResourceStorageModeShared);
  if (buffer == nullptr) return {};
  return {buffer, static_cast<std::byte*>(buffer->contents()), static_cast<std::int64_t>(size)};
}

Buffer Device::wrap(const std::byte* data, std::int64_t bytes) {
  const auto size = static_cast<NS::UInteger>(bytes);
  if (size > impl_->device->maxBufferLength()) return {};
  MTL::Buffer* buffer =
      impl_->device->newBuffer(data, size, MTL::ResourceStorageModeShared, nullptr);
  if (buffer == nullptr) return {};
  return {buffer, static_cast<std::byte*>(buffer->contents()), bytes};
}

void Device::release(const Buffer& buffer) {
  if (buffer.handle != nullptr) static_cast<MTL::Buffer*>(buffer.handle)->release();
}

Result<Kernel> Device::kernel(const std::string& name) {
  const Pool pool;
  MTL::Function* function = impl_->library->newFunction(text(name));
  if (function == nullptr) return Error{Code::internal, "metal: the library has no kernel " + name};
  NS::Error* error = nullptr;
  MTL::ComputePipelineState* pipeline = impl_->device->newComputePipelineState(function, &error);
  function->release();
  if (pipeline == nullptr)
    return Error{Code::internal, "metal: kernel " + name + ": " + message(error)};
  impl_->pipelines.push_back(pipeline);
  return Kernel{pipeline, static_cast<std::uint32_t>(pipeline->maxTotalThreadsPerThreadgroup())};
}

void Device::bind(std::uint32_t index, const Buffer& buffer, std::int64_t offset) {
  impl_->encode()->setBuffer(static_cast<MTL::Buffer*>(buffer.handle),
                             static_cast<NS::UInteger>(offset), index);
}

void Device::bind_bytes(std::uint32_t index, const void* bytes, std::size_t count) {
  impl_->encode()->setBytes(bytes, count, index);
}

void Device::dispatch(const Kernel& kernel, Size groups, std::uint32_t threads) {
  MTL::ComputeCommandEncoder* encoder = impl_->encode();
  encoder->setComputePipelineState(static_cast<MTL::ComputePipelineState*>(kernel.handle));
  encoder->dispatchThreadgroups(MTL::Size(groups.x, groups.y, 1), MTL::Size(threads, 1, 1));
}

std::uint64_t Device::commit() {
  Impl& d = *impl_;
  if (d.encoder == nullptr) return d.n_sent;
  d.encoder->endEncoding();
  d.encoder->release();
  d.encoder = nullptr;
  d.commands->commit();
  d.sent.push_back(d.commands);
  d.commands = nullptr;
  return ++d.n_sent;
}

double Device::gpu_seconds() const {
  return impl_->gpu_seconds;
}

Status Device::wait(std::uint64_t number) {
  const Pool pool;
  Impl& d = *impl_;
  Status status;
  for (; d.n_done < number && !d.sent.empty(); ++d.n_done) {
    MTL::CommandBuffer* buffer = d.sent.front();
    d.sent.pop_front();
    buffer->waitUntilCompleted();
    d.gpu_seconds += buffer->GPUEndTime() - buffer->GPUStartTime();
    if (status.ok() && buffer->status() == MTL::CommandBufferStatusError)
      status = {Code::internal, "metal: " + message(buffer->error())};
    buffer->release();
  }
  return status;
}

}  // namespace herd::metal
