// The device, its memory, steps, and how ops reach their kernels.
#include "backend/metal/metal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/environment.h"
#include "base/half.h"
#include "base/memory.h"

namespace herd {
namespace metal {
namespace {

Error no_memory(std::string_view what, std::int64_t bytes) {
  return {Code::resource_exhausted, fmt::format("{}: no Metal memory for {} bytes", what, bytes)};
}

template <class T>
void put(std::byte* to, const std::vector<T>& from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size() * sizeof(T));
}

}  // namespace

// ---- the device ----

Status MetalBackend::open(const BackendOptions& options) {
  auto device = Device::open(kernel_source(), kernel_library());
  if (!device.ok()) return device.error();
  device_ = std::move(*device);
  check_each_op_ = options.check_each_op || environment_flag("HERD_METAL_CHECK");
  profile_ = options.profile;
  description_ = fmt::format("metal, {}", device_->name());
  for (const char* name :
       {"rms_norm_batch_f32", "rms_norm_batch_f16", "rms_norm_add_batch_f16", "rope_batch_f32",
        "paged_attention", "to_half", "sample_batch", "swiglu_activation_f16"})
    if (prepared(name) == nullptr) return status_;
  nothing_ = take(64);
  if (nothing_.data == nullptr) return no_memory("device metal", 64);
  std::memset(nothing_.data, 0, 64);
  return make_step_room({1, 1, 1});
}

MetalBackend::~MetalBackend() {
  if (device_ == nullptr) return;
  static_cast<void>(wait());
  for (const auto& [address, buffer] : memory_) device_->release(buffer);
}

DeviceMemory MetalBackend::memory() const {
  const std::int64_t most = device_->memory();
  return {most > 0 ? most : total_memory(), available_memory(), false};
}

void MetalBackend::note(const Status& status) {
  if (status_.ok() && !status.ok()) status_ = status;
}

Status MetalBackend::wait() {
  note(device_->wait(device_->commit()));
  return status_;
}

// ---- memory ----

Buffer MetalBackend::take(std::int64_t bytes) {
  const Buffer buffer = device_->allocate(bytes);
  if (buffer.data != nullptr) memory_[buffer.data] = buffer;
  return buffer;
}

void MetalBackend::give(const Buffer& buffer) {
  if (buffer.data == nullptr) return;
  memory_.erase(buffer.data);
  device_->release(buffer);
}

Result<void*> MetalBackend::allocate(std::int64_t bytes) {
  if (bytes < 0)
    return Error{Code::out_of_range, fmt::format("buffer: {} bytes, must be at least 0", bytes)};
  const Buffer buffer = take(bytes);
  if (buffer.data == nullptr) return no_memory("buffer", bytes);
  std::memset(buffer.data, 0, static_cast<std::size_t>(buffer.bytes));
  buffers_.push_back(buffer);
  return static_cast<void*>(buffer.data);
}

void MetalBackend::release_to(MemoryMark mark) {
  static_cast<void>(wait());
  for (; matrices_.size() > mark.matrices; matrices_.pop_back()) release(matrices_.back());
  for (; buffers_.size() > mark.buffers; buffers_.pop_back()) give(buffers_.back());
}

std::int64_t MetalBackend::kv_bytes(const KvLayout& l) const {
  return std::int64_t{4} * l.layers * l.pages * l.page_size * l.kv_heads * l.head_size;
}

Status MetalBackend::create_kv(const KvLayout& l) {
  if (l.type != KvType::f16)
    return {Code::unsupported, "KV type f32: the metal backend keeps keys and values as f16"};
  if (l.layers < 1 || l.kv_heads < 1 || l.page_size < 1 || l.pages < 1)
    return {Code::out_of_range,
            "KV pool: layers, kv_heads, page_size and pages must be at least 1"};
  if (l.head_size < 1 || l.head_size > args::kMaxHeadSize)
    return {Code::unsupported, fmt::format("head size {}: the metal backend takes 1 to {}",
                                           l.head_size, static_cast<int>(args::kMaxHeadSize))};
  kv_ = l;
  const std::int64_t bytes = kv_bytes(l) / 2 / l.layers;
  for (std::int32_t i = 0; i < l.layers; ++i) {
    for (std::vector<Buffer>* pool : {&keys_, &values_}) {
      pool->push_back(take(bytes));
      if (pool->back().data == nullptr) return no_memory("KV pool", kv_bytes(l));
      std::memset(pool->back().data, 0, static_cast<std::size_t>(bytes));
    }
  }
  return {};
}

void MetalBackend::upload(void* to, const void* from, std::int64_t bytes) {
  static_cast<void>(wait());  // an error is told later
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

Status MetalBackend::download(void* to, const void* from, std::int64_t bytes) {
  if (Status status = wait(); !status.ok()) return status;
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
  return {};
}

// ---- steps ----

MetalBackend::StepRoom MetalBackend::step_room(const StepLimits& l) const {
  const std::int64_t page = std::max(1, kv_.page_size);
  const std::int64_t sequences = l.max_sequences > 0 ? l.max_sequences : l.max_rows;
  const std::int64_t pages = sequences * ((l.max_context + page - 1) / page);
  return {std::max(1, l.max_rows), std::max({1, l.max_logits, l.max_rows}),
          std::max<std::int64_t>(1, pages)};
}

std::int64_t MetalBackend::scratch_bytes(const StepLimits& l) const {
  const StepRoom room = step_room(l);
  return 2 * (room.bytes() + 4 * room.logits) + std::int64_t{8} * l.max_rows * l.max_columns;
}

Status MetalBackend::reserve_scratch(const StepLimits& l) {
  if (Status status = make_step_room(step_room(l)); !status.ok()) return status;
  return make_products(std::int64_t{l.max_rows} * l.max_columns);
}

Status MetalBackend::make_step_room(const StepRoom& room) {
  static_cast<void>(wait());
  room_ = {std::max(room.rows, room_.rows), std::max(room.logits, room_.logits),
           std::max(room.pages, room_.pages)};
  for (StepMemory& step : steps_) {
    if (step.buffer.bytes >= room_.bytes()) continue;
    give(step.buffer);
    step.buffer = take(room_.bytes());
    if (step.buffer.data == nullptr)
      return status_ = {Code::resource_exhausted,
                        fmt::format("a step's batch: no memory for {} bytes", room_.bytes())};
  }
  for (Chosen& chosen : chosen_) {
    if (chosen.ids.bytes >= 4 * room_.logits) continue;
    const Buffer before = chosen.ids;
    chosen.ids = take(4 * room_.logits);
    if (chosen.ids.data == nullptr)
      return status_ = no_memory("a step's choices", 4 * room_.logits);
    std::memset(chosen.ids.data, 0, static_cast<std::size_t>(chosen.ids.bytes));
    if (before.bytes > 0)
      std::memcpy(chosen.ids.data, before.data, static_cast<std::size_t>(before.bytes));
    give(before);
  }
  return {};
}

Status MetalBackend::make_products(std::int64_t floats) {
  if (gate_.bytes >= 4 * floats) return {};
  static_cast<void>(wait());
  for (Buffer* buffer : {&gate_, &up_}) {
    give(*buffer);
    *buffer = take(4 * floats);
    if (buffer->data == nullptr) return status_ = no_memory("scratch", 8 * floats);
  }
  return {};
}

void MetalBackend::write_step(const Batch& batch) {
  std::byte* to = step_->buffer.data;
  put(to + room_.sampling(), batch.sampling);
  put(to + room_.ids(), batch.ids);
  put(to + room_.positions(), batch.positions);
  put(to + room_.slots(), batch.slots);
  put(to + room_.logit_rows(), batch.logit_rows);
  put(to + room_.block_table(), batch.block_table);
  auto* first = reinterpret_cast<std::int32_t*>(to + room_.first_pages());
  for (const BatchSequence& s : batch.sequences)
    std::fill_n(first + s.first_row, s.n_rows, s.first_page);
}

StepRows MetalBackend::begin_step(const Batch& batch) {
  const StepRows rows = {batch.n_rows(), static_cast<std::int32_t>(batch.logit_rows.size())};
  const StepRoom need = {rows.rows, rows.logits, std::ssize(batch.block_table)};
  if (need.rows > room_.rows || need.logits > room_.logits || need.pages > room_.pages)
    note(make_step_room(need));
  step_ = &steps_[n_steps_++ % 2];
  note(device_->wait(step_->reader));
  if (!status_.ok()) return {rows.rows, rows.logits, true};  // told by whoever asks for results
  write_step(batch);
  rows_ = rows.rows;
  norms_ = 0;
  return rows;
}

void MetalBackend::end_step() {
  step_->reader = device_->commit();
  if (step_samples_) chosen_[(n_sampled_ - 1) % 2].writer = step_->reader;
  step_samples_ = false;
}

// ---- dispatch ----

const Kernel* MetalBackend::prepared(const std::string& name) {
  const auto known = kernels_.find(name);
  if (known != kernels_.end()) return &known->second;
  const auto kernel = device_->kernel(name);
  if (!kernel.ok()) {
    note(kernel.error());
    return nullptr;
  }
  return &(kernels_[name] = *kernel);
}

void MetalBackend::bind(std::uint32_t index, const void* pointer) {
  const auto* p = static_cast<const std::byte*>(pointer);
  auto found = memory_.upper_bound(p);
  if (p != nullptr && found != memory_.begin()) {
    const Buffer& buffer = std::prev(found)->second;
    if (p < buffer.data + buffer.bytes) return device_->bind(index, buffer, p - buffer.data);
    note({Code::internal, "metal: an op was handed memory that is not this backend's"});
  }
  device_->bind(index, nothing_, 0);
}

const Kernel* MetalBackend::begin(const std::string& kernel,
                                  std::initializer_list<const void*> pointers,
                                  std::uint32_t threads) {
  const Kernel* k = prepared(kernel);
  if (k != nullptr && threads > k->max_threads)
    note({Code::internal, fmt::format("metal: kernel {} needs threadgroups of {} threads, {} are "
                                      "the most on this device",
                                      kernel, threads, k->max_threads)});
  if (!status_.ok()) return nullptr;
  std::uint32_t index = 0;
  for (const void* p : pointers) bind(index++, p);
  return k;
}

std::uint32_t MetalBackend::threads_of(const std::string& kernel, std::uint32_t wanted) {
  const Kernel* k = prepared(kernel);
  if (k == nullptr) return 32;
  return std::max(32u, std::min(wanted, k->max_threads) / 32 * 32);
}

bool MetalBackend::fits(const std::string& kernel, std::int64_t n) {
  if (n < (std::int64_t{1} << 32) - args::kElementThreads) return true;
  note({Code::out_of_range, fmt::format("metal: kernel {}: {} elements, 2^32 - {} are the most",
                                        kernel, n, static_cast<int>(args::kElementThreads))});
  return false;
}

void MetalBackend::time(const char* op) {
  const double before = device_->gpu_seconds();
  static_cast<void>(wait());
  auto known = std::ranges::find(op_times_, op, &OpTime::op);
  if (known == op_times_.end()) known = op_times_.insert(known, {op, 0, 0});
  ++known->calls;
  known->seconds += device_->gpu_seconds() - before;
}

void MetalBackend::done(const char* op, const void* out, std::int64_t rows, std::int64_t columns,
                        bool halves) {
  if (profile_) time(op);
  if (!check_each_op_ || !wait().ok()) return;
  const auto* x = static_cast<const std::byte*>(out);
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    float value = 0;
    std::uint16_t half = 0;
    if (halves)
      std::memcpy(&half, x + 2 * i, 2), value = half_to_float(half);
    else
      std::memcpy(&value, x + 4 * i, 4);
    if (std::isfinite(value)) continue;
    return note(
        {Code::internal, fmt::format("metal: {} of layer {}, row {}, column {}: {} is not finite",
                                     op, (norms_ - 1) / 2, i / columns, i % columns, value)});
  }
}

}  // namespace metal

Result<std::unique_ptr<Backend>> make_metal_backend(const BackendOptions& options) {
#ifdef HERD_METAL_EMULATION
  if (options.device != DeviceType::metal_emulated)
    return Error{Code::unsupported,
                 "device metal: needs macOS on Apple silicon; this build has metal-emulated"};
#else
  if (options.device != DeviceType::metal)
    return Error{Code::unsupported,
                 "device metal-emulated: the emulator is for Linux; this build has metal"};
#endif
  auto backend = std::make_unique<metal::MetalBackend>();
  if (Status status = backend->open(options); !status.ok()) return status.error();
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace herd
