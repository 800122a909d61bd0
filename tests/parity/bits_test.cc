// The promise: a sequence's logits are the same bits alone, in any company, in any chunks and after
// others were freed; and the same on every instruction set and thread count as on the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "backend/backend.h"
#include "tiny_model.h"

namespace herd {
namespace {

using test::Dice;
constexpr std::uint64_t kSeed = 20240607;

struct Device {
  DeviceType type;
  Isa isa;
  int threads;
  std::string name() const {
    return std::string(to_string(type)) + "_" + std::string(to_string(isa)) + "_" +
           std::to_string(threads);
  }
};

/// The reference and every instruction set of this machine: all of them give the same bits.
std::vector<Device> host_devices() {
  std::vector<Device> all = {{DeviceType::reference, Isa::automatic, 1}};
  for (const Isa isa : kIsas)
    for (const int threads : {1, 2})
      if (make_backend({DeviceType::cpu, 1, isa}).ok())
        all.push_back({DeviceType::cpu, isa, threads});
  return all;
}
/// And those that keep the promise with bits of their own.
std::vector<Device> devices() {
  std::vector<Device> all = host_devices();
  all.push_back({DeviceType::cuda, Isa::automatic, 1});
  return all;
}

LlamaModel open(const std::string& path, const Device& device, ModelOptions options) {
  options.device = device.type;
  options.isa = device.isa;
  options.threads = device.threads;
  return test::load(path, options);
}

using Rows = std::vector<std::vector<float>>;  // one per token

/// Logits after every token, by sequence.
std::vector<Rows> all_rows(LlamaModel& model, const std::vector<std::vector<TokenId>>& ids) {
  std::vector<Rows> rows(ids.size());
  const Status status = model.forward_all(
      ids, [&](std::size_t sequence, std::size_t token, std::span<const float> logits) {
        EXPECT_EQ(rows[sequence].size(), token);
        rows[sequence].emplace_back(logits.begin(), logits.end());
      });
  EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  return rows;
}

/// Bits, not values: -0 is not 0, and a NaN fails.
::testing::AssertionResult same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size() || a.empty())
    return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " logits";
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]) || a[i] != a[i])
      return ::testing::AssertionFailure() << "logit " << i << ": " << a[i] << " and " << b[i];
  return ::testing::AssertionSuccess();
}

/// Sequences with the logits each gives alone: what every other way of running must equal.
struct Known {
  std::vector<std::vector<TokenId>> ids;
  std::vector<Rows> rows;
};
Known know(LlamaModel& model, Dice& dice, int count, std::int32_t longest) {
  Known known;
  for (int i = 0; i < count; ++i) {
    known.ids.push_back(dice.ids(dice.roll(1, longest), model.info().vocab));
    known.rows.push_back(all_rows(model, {known.ids.back()})[0]);
  }
  return known;
}

class Bits : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (const auto missing = test::missing(GetParam().type)) GTEST_SKIP() << *missing;
  }
  /// Fewer and shorter on the slow ones.
  bool quick() const {
    return GetParam().type == DeviceType::reference || GetParam().isa == Isa::scalar;
  }
  std::int32_t longest() const { return quick() ? 40 : 90; }
  LlamaModel open_model(std::int32_t max_rows, std::int64_t kv_tokens = 4096) {
    ModelOptions options;
    options.batch_size = GetParam().type == DeviceType::cuda ? 256 : 33;
    options.context = 300;
    options.kv_tokens = kv_tokens;
    options.max_rows = max_rows;
    return open(model_.path(), GetParam(), options);
  }

 private:
  test::TempModel model_{mixed_model()};
  // Types of both block sizes, an odd vocabulary, more inputs than one 256-wide chunk.
  static test::TinyModel mixed_model() {
    test::TinyShape shape;
    shape.hidden = 128, shape.heads = 6, shape.kv_heads = 2, shape.head_size = 32;
    shape.feed_forward = 512, shape.vocab = 67, shape.context = 512, shape.tied = false;
    shape.type = quant::Type::Q5_1;
    test::TinyModel model = test::tiny_model(shape);
    for (auto& [name, tensor] : model.tensors)
      if (name.ends_with("ffn_down.weight")) tensor.type = quant::Type::Q4_K;
    return model;
  }
};

TEST_P(Bits, EveryPositionOfEveryBatchSize) {
  auto model = open_model(512, 16384);
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  Dice dice(kSeed);
  const Known known = know(model, dice, quick() ? 3 : 8, quick() ? 12 : 40);
  const auto last = static_cast<std::int32_t>(known.ids.size()) - 1;
  std::vector<std::int32_t> sizes;
  for (std::int32_t size = 1; size <= 33; quick() ? size += 16 : ++size) sizes.push_back(size);
  if (GetParam().type == DeviceType::cuda)
    for (const std::int32_t size : {63, 64, 65, 100, 128, 129, 200, 255, 256})
      sizes.push_back(size);
  for (const std::int32_t size : sizes) {
    std::vector<std::size_t> chosen;
    std::vector<std::vector<TokenId>> batch;
    for (std::int32_t i = 0; i < size; ++i) {
      chosen.push_back(static_cast<std::size_t>(dice.roll(0, last)));
      batch.push_back(known.ids[chosen.back()]);
    }
    model.clear_batch();
    const auto logits = model.forward_batch(batch);
    ASSERT_TRUE(logits.ok()) << logits.error().message;
    for (std::size_t i = 0; i < batch.size(); ++i)
      ASSERT_TRUE(same_bits((*logits)[i], known.rows[chosen[i]].back()))
          << "batch of " << size << ", place " << i << ", " << batch[i].size() << " tokens";
  }
}

TEST_P(Bits, AllRowsOfRaggedBatches) {
  auto model = open_model(64);
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  Dice dice(kSeed + 1);
  const Known known = know(model, dice, quick() ? 5 : 40, longest());
  const auto rows = all_rows(model, known.ids);
  for (std::size_t i = 0; i < known.ids.size(); ++i) {
    ASSERT_EQ(rows[i].size(), known.rows[i].size());
    for (std::size_t t = 0; t < rows[i].size(); ++t)
      ASSERT_TRUE(same_bits(rows[i][t], known.rows[i][t])) << "sequence " << i << " token " << t;
  }
}

/// Feeds each known sequence in pieces of `chunk` tokens (0: random), all of them side by side.
void feed_in_chunks(LlamaModel& model, const Known& known, std::size_t chunk, Dice& dice) {
  std::vector<std::size_t> fed(known.ids.size(), 0);
  for (bool more = true; more;) {
    more = false;
    std::vector<std::vector<TokenId>> step(known.ids.size());
    for (std::size_t i = 0; i < step.size(); ++i) {
      const std::size_t wanted = chunk > 0 ? chunk : static_cast<std::size_t>(dice.roll(0, 20));
      const std::size_t n = std::min(wanted, known.ids[i].size() - fed[i]);
      const auto first = known.ids[i].begin() + static_cast<std::ptrdiff_t>(fed[i]);
      step[i].assign(first, first + static_cast<std::ptrdiff_t>(n));
      fed[i] += n;
      more = more || fed[i] < known.ids[i].size();
    }
    const auto logits = model.forward_batch(step);
    ASSERT_TRUE(logits.ok()) << logits.error().message;
    for (std::size_t i = 0; i < step.size(); ++i) {
      if (step[i].empty()) continue;
      ASSERT_TRUE(same_bits((*logits)[i], known.rows[i][fed[i] - 1]))
          << "chunk " << chunk << ", sequence " << i << ", " << fed[i] << " tokens fed";
    }
  }
}

TEST_P(Bits, Chunks) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (const std::int32_t max_rows : {33, 512, 2048}) {  // the engine's own chunks, too
    auto model = open_model(max_rows);
    Dice dice(kSeed + 2);
    const Known known = know(model, dice, quick() ? 2 : 6, longest());
    for (const std::size_t chunk : {1, 3, 16, 1000, 0}) {
      model.clear_batch();
      feed_in_chunks(model, known, chunk, dice);
    }
  }
}

TEST_P(Bits, AfterOthersWereFreed) {
  auto model = open_model(64, 1200);
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  Dice dice(kSeed + 3);
  const Known known = know(model, dice, quick() ? 4 : 12, longest());
  std::vector<std::size_t> fed(known.ids.size(), 0);
  for (int step = 0; step < (quick() ? 12 : 80); ++step) {
    for (std::size_t i = 0; i < fed.size(); ++i) {  // some leave, their pages go to others
      if (fed[i] < known.ids[i].size() && dice.roll(0, 7) != 0) continue;
      ASSERT_TRUE(model.clear_sequence(static_cast<std::int32_t>(i)).ok());
      fed[i] = 0;
    }
    std::vector<std::vector<TokenId>> batch(fed.size());
    for (std::size_t i = 0; i < fed.size(); ++i) {
      const auto n = std::min<std::size_t>(static_cast<std::size_t>(dice.roll(0, 24)),
                                           known.ids[i].size() - fed[i]);
      const auto first = known.ids[i].begin() + static_cast<std::ptrdiff_t>(fed[i]);
      batch[i].assign(first, first + static_cast<std::ptrdiff_t>(n));
      fed[i] += n;
    }
    const auto logits = model.forward_batch(batch);
    ASSERT_TRUE(logits.ok()) << logits.error().message;
    for (std::size_t i = 0; i < fed.size(); ++i) {
      if (batch[i].empty()) continue;
      ASSERT_TRUE(same_bits((*logits)[i], known.rows[i][fed[i] - 1]))
          << "step " << step << ", sequence " << i << ", " << fed[i] << " tokens fed";
    }
    const Status whole = model.check_integrity();
    ASSERT_TRUE(whole.ok()) << whole.error().message;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, Bits, testing::ValuesIn(devices()),
                         [](const auto& param) { return param.param.name(); });

// ---- across devices ----

struct Work {
  std::string name, file;
  KvType kv_type;
};
class IsasAndThreads : public testing::TestWithParam<Work> {};

TEST_P(IsasAndThreads, WholeForwardEqualsTheReference) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  ModelOptions options;
  options.batch_size = 8;
  options.context = 400;
  options.kv_type = GetParam().kv_type;
  std::vector<std::vector<TokenId>> ids;
  std::vector<Rows> expected;
  int ran = 0;
  for (const Device& device : host_devices()) {
    LlamaModel model = open(test::data_file(GetParam().file), device, options);
    if (device.type == DeviceType::reference) {
      Dice dice(kSeed + 4);
      for (const std::int32_t length : {1, 5, 33, 260})  // 260: past one chunk of keys
        ids.push_back(dice.ids(length, model.info().vocab));
      expected = all_rows(model, ids);
      continue;
    }
    ++ran;
    const auto rows = all_rows(model, ids);
    for (std::size_t i = 0; i < ids.size(); ++i)
      for (std::size_t t = 0; t < ids[i].size(); ++t)
        ASSERT_TRUE(same_bits(rows[i][t], expected[i][t]))
            << model.info().backend << ": sequence " << i << " token " << t;
  }
  EXPECT_GE(ran, 2) << "scalar runs everywhere";
}

INSTANTIATE_TEST_SUITE_P(Models, IsasAndThreads,
                         testing::Values(Work{"MixF16", "tiny-mix.gguf", KvType::f16},
                                         Work{"MixF32", "tiny-mix.gguf", KvType::f32},
                                         Work{"Mha", "tiny-mha-Q4_K_M.gguf", KvType::f16}),
                         [](const auto& param) { return param.param.name; });

TEST(Isa, TheNamedOneRuns) {
  test::TempModel file;
  int ran = 0;
  for (const Device& device : host_devices()) {
    auto model = open(file.path(), device, {});
    if (device.type == DeviceType::reference) continue;
    ++ran;
    EXPECT_EQ(model.info().backend, "cpu " + std::string(to_string(device.isa)) + ", " +
                                        std::to_string(device.threads) + " thread" +
                                        (device.threads == 1 ? "" : "s"));
  }
  EXPECT_GE(ran, 2);
}

// ---- batching is real ----

std::uint64_t weight_bytes_of_step(LlamaModel& model, std::size_t sequences) {
  model.clear_batch();
  const std::vector<std::vector<TokenId>> ids(sequences, {1, 2, 3});
  EXPECT_TRUE(model.forward_batch(ids).ok());
  const ModelCounters before = model.counters();
  EXPECT_TRUE(model.forward_batch(std::vector<std::vector<TokenId>>(sequences, {4})).ok());
  const ModelCounters after = model.counters();
  EXPECT_EQ(after.steps - before.steps, 1u);
  EXPECT_EQ(after.rows - before.rows, sequences);
  return after.weight_bytes - before.weight_bytes;
}

TEST(Batching, WeightsAreReadOnceForAllSequences) {
  for (const DeviceType device : {DeviceType::reference, DeviceType::cpu}) {
    ModelOptions options;
    options.device = device;
    options.context = 64;
    LlamaModel model = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
    const std::uint64_t one = weight_bytes_of_step(model, 1);
    EXPECT_EQ(weight_bytes_of_step(model, 16), one);
    EXPECT_GE(one, 400'000u);  // the file's matrices
    EXPECT_LE(one, 600'000u);
  }
}

/// A chunk of a prompt that is not its last has no logits: the output matrix is left alone.
TEST(Batching, ChunksWithoutLogitsSkipTheOutput) {
  test::TinyShape shape;
  shape.tied = false;
  test::TempModel file(shape);
  ModelOptions options;
  options.device = DeviceType::reference;
  options.max_rows = 16;
  LlamaModel model = test::load(file.path(), options);
  ASSERT_TRUE(model.forward_batch(std::vector<std::vector<TokenId>>{{1}}).ok());
  const std::uint64_t one = model.counters().weight_bytes;
  Dice dice(kSeed);
  ASSERT_TRUE(model.forward_batch(std::vector<std::vector<TokenId>>{dice.ids(48, 101)}).ok());
  const auto output = static_cast<std::uint64_t>(shape.vocab * shape.hidden * 4);
  EXPECT_EQ(model.counters().weight_bytes - one, 3 * one - 2 * output);
}

}  // namespace
}  // namespace herd
