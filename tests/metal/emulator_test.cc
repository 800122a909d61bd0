// The Metal emulator finds what it is there to find: planted mistakes become errors that say where.
#include <gtest/gtest.h>

#include <cstring>

#include "backend/metal/device.h"
#include "backend/metal/emulation/launch.h"

namespace herd::metal {

std::string_view kernel_source();

namespace {

using emulation::Arguments;
using emulation::Builtin;
using emulation::KernelEntry;
using emulation::Launch;
using emulation::Order;
using emulation::Parameter;
using emulation::Place;

const std::vector<Parameter> kThread = {{Builtin::thread_index_in_threadgroup, 0}};

std::uint32_t thread_of(const Arguments& arguments) {
  return arguments.builtin(0).x;
}

std::string run(void (*kernel)(const Arguments&), std::uint32_t threads, Order order = {}) {
  const KernelEntry entry = {"planted", "planted", kernel, 1};
  Launch launch;
  launch.kernel = &entry;
  launch.parameters = &kThread;
  launch.threads = {threads, 1, 1};
  return emulation::run(launch, order);
}
bool mentions(const std::string& message, std::string_view part) {
  return message.find(part) != std::string::npos;
}

TEST(Emulator, BarriersHoldInEveryOrder) {
  for (const Order order : {Order{Order::forward, 1}, {Order::reverse, 1}, {Order::random, 5}}) {
    const std::string wrong = run(
        [](const Arguments& a) {
          static const char key = 0;
          auto* shared = static_cast<std::uint32_t*>(emulation::threadgroup_array(&key, 4 * 96));
          const std::uint32_t i = thread_of(a);
          shared[i] = i;
          emulation::threadgroup_rendezvous(true, Place::current());
          if (shared[95 - i] != 95 - i) emulation::fail("a write is not seen");
        },
        96, order);
    EXPECT_EQ(wrong, "");
  }
}

TEST(Emulator, ThreadgroupMemoryStartsAsNan) {
  const std::string wrong = run(
      [](const Arguments&) {
        static const char key = 0;
        const auto* x = static_cast<const float*>(emulation::threadgroup_array(&key, 16));
        if (x[3] == x[3]) emulation::fail("it is a number");
      },
      1);
  EXPECT_EQ(wrong, "");
}

TEST(Emulator, NamesThreadsThatWaitAtDifferentBarriers) {
  const std::string wrong = run(
      [](const Arguments& a) {
        if (thread_of(a) < 7)
          emulation::threadgroup_rendezvous(true, Place::current());
        else
          emulation::threadgroup_rendezvous(true, Place::current());
      },
      32);
  EXPECT_TRUE(mentions(wrong, "wait at emulator_test.cc:")) << wrong;
  EXPECT_TRUE(mentions(wrong, "kernel planted")) << wrong;
}

TEST(Emulator, NamesABarrierThatSomeThreadsNeverReach) {
  const std::string wrong = run(
      [](const Arguments& a) {
        if (thread_of(a) != 3) emulation::threadgroup_rendezvous(true, Place::current());
      },
      64);
  EXPECT_TRUE(mentions(wrong, "not reached by all threads")) << wrong;
}

TEST(Emulator, NamesCollectivesAtDifferentPlaces) {
  const std::string wrong = run(
      [](const Arguments& a) {
        if (thread_of(a) % 2 == 0)
          emulation::simd_rendezvous(nullptr, nullptr, true, Place::current());
        else
          emulation::simd_rendezvous(nullptr, nullptr, true, Place::current());
      },
      32);
  EXPECT_TRUE(mentions(wrong, "lanes of a simdgroup wait at")) << wrong;
}

TEST(Emulator, ACollectiveGoesOnWithoutLanesThatReturned) {
  const std::string wrong = run(
      [](const Arguments& a) {
        if (thread_of(a) >= 20) return;
        emulation::simd_rendezvous(nullptr, nullptr, true, Place::current());
      },
      32);
  EXPECT_EQ(wrong, "");
}

TEST(Emulator, RefusesTooMuchThreadgroupMemory) {
  const std::string wrong = run(
      [](const Arguments&) {
        static const char first = 0, second = 0;
        emulation::threadgroup_array(&first, 32752);
        emulation::threadgroup_array(&second, 32);
      },
      1);
  EXPECT_TRUE(mentions(wrong, "32768")) << wrong;
}

// ---- through metal-cpp ----

class EmulatedDevice : public testing::Test {
 protected:
  void SetUp() override {
    auto device = Device::open(kernel_source());
    ASSERT_TRUE(device.ok());
    device_ = std::move(*device);
    for (Buffer* b : {&a_, &b_, &out_}) *b = device_->allocate(64);
    for (const Buffer& b : {a_, b_, out_}) std::memset(b.data, 0, 64);
  }
  void TearDown() override {
    for (const Buffer& b : {a_, b_, out_}) device_->release(b);
  }
  /// element_wise_add of `count` floats; what went wrong.
  std::string add(std::uint32_t count, std::uint32_t threads, std::size_t argument_bytes = 8) {
    const auto kernel = device_->kernel("element_wise_add");
    if (!kernel.ok()) return kernel.error().message;
    const std::uint32_t arguments[2] = {count, 0};
    device_->bind(0, a_, 0);
    device_->bind(1, b_, 0);
    device_->bind(2, out_, 0);
    device_->bind_bytes(3, arguments, argument_bytes);
    device_->dispatch(*kernel, {1, 1}, threads);
    const Status status = device_->wait(device_->commit());
    return status.ok() ? "" : status.error().message;
  }
  std::unique_ptr<Device> device_;
  Buffer a_, b_, out_;
};

TEST_F(EmulatedDevice, RunsLateAndThenIsRight) {
  const float one = 1, two = 2;
  std::memcpy(a_.data + 60, &one, 4);
  std::memcpy(b_.data + 60, &two, 4);
  EXPECT_EQ(add(16, 32), "");
  float sum = 0;
  std::memcpy(&sum, out_.data + 60, 4);
  EXPECT_EQ(sum, 3.0f);
}

TEST_F(EmulatedDevice, NamesThreadgroupsOverTheLimit) {
  const std::string wrong = add(16, 2048);
  EXPECT_TRUE(mentions(wrong, "2048") && mentions(wrong, "maxTotalThreadsPerThreadgroup is 1024"))
      << wrong;
}

TEST_F(EmulatedDevice, NamesArgumentsThatAreTooShort) {
  EXPECT_TRUE(mentions(add(16, 32, 4), "shorter than the struct"));
}

TEST_F(EmulatedDevice, NamesABufferThatIsNotBound) {
  const auto kernel = device_->kernel("to_half");
  ASSERT_TRUE(kernel.ok());
  device_->bind(0, a_, 0);
  device_->dispatch(*kernel, {1, 1}, 32);
  const Status status = device_->wait(device_->commit());
  ASSERT_FALSE(status.ok());
  EXPECT_TRUE(mentions(status.error().message, "kernel to_half")) << status.error().message;
  EXPECT_TRUE(mentions(status.error().message, "not bound")) << status.error().message;
}

TEST_F(EmulatedDevice, HasNoKernelOfAnotherName) {
  const auto kernel = device_->kernel("no_such_kernel");
  ASSERT_FALSE(kernel.ok());
  EXPECT_TRUE(mentions(kernel.error().message, "no_such_kernel"));
}

TEST_F(EmulatedDevice, TakesALibraryCompiledAhead) {
  const std::string library = "emulated metallib\n" + std::string(kernel_source());
  auto device = Device::open("", std::as_bytes(std::span(library)));
  ASSERT_TRUE(device.ok());
  TearDown();
  device_ = std::move(*device);
  for (Buffer* b : {&a_, &b_, &out_}) *b = device_->allocate(64);
  EXPECT_EQ(add(16, 32), "");
}

TEST_F(EmulatedDevice, NamesALibraryThatDoesNotLoad) {
  const std::string library = "no library";
  const auto device = Device::open(kernel_source(), std::as_bytes(std::span(library)));
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.error().message,
            "device metal: the kernels do not load: not a library of the emulator's");
}

#if !defined(__SANITIZE_ADDRESS__)  // which ends the program there
TEST_F(EmulatedDevice, NamesAWriteOutsideOfABuffer) {
  const auto kernel = device_->kernel("to_half");
  ASSERT_TRUE(kernel.ok());
  const Buffer small = device_->allocate(16);
  const std::uint32_t arguments[2] = {12, 0};
  device_->bind(0, a_, 0);
  device_->bind(1, small, 0);
  device_->bind_bytes(2, arguments, 8);
  device_->dispatch(*kernel, {1, 1}, 32);
  const Status status = device_->wait(device_->commit());
  ASSERT_FALSE(status.ok());
  EXPECT_TRUE(mentions(status.error().message, "outside of buffer 1")) << status.error().message;
  device_->release(small);
}
#endif

}  // namespace
}  // namespace herd::metal
