// Whole steps on the metal backend over the emulator: the promise bit for bit, the reference's
// greedy tokens, and choices on the device as src/sample makes them. Skipped where there is no
// emulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <fstream>
#include <map>

#include "engine_clients.h"
#include "tiny_model.h"

namespace herd {
namespace {

class MetalModel : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto missing = test::missing(DeviceType::metal_emulated)) GTEST_SKIP() << *missing;
  }
  static LlamaModel open(DeviceType device, std::int32_t max_rows) {
    ModelOptions options;
    options.device = device;
    options.batch_size = 9, options.context = 128, options.max_rows = max_rows;
    return test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  }
};

using Rows = std::vector<std::vector<float>>;
std::vector<Rows> all_rows(LlamaModel& model, const std::vector<std::vector<TokenId>>& ids) {
  std::vector<Rows> rows(ids.size());
  const Status status =
      model.forward_all(ids, [&](std::size_t sequence, std::size_t, std::span<const float> logits) {
        rows[sequence].emplace_back(logits.begin(), logits.end());
      });
  EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  return rows;
}

testing::AssertionResult same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size() || a.empty())
    return testing::AssertionFailure() << a.size() << " and " << b.size() << " logits";
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]) || a[i] != a[i])
      return testing::AssertionFailure() << "logit " << i << ": " << a[i] << " and " << b[i];
  return testing::AssertionSuccess();
}

TEST_F(MetalModel, TheSameBitsAloneInABatchAndInChunks) {
  test::Dice dice(91);
  LlamaModel model = open(DeviceType::metal_emulated, 40),
             small = open(DeviceType::metal_emulated, 7);
  std::vector<std::vector<TokenId>> ids;
  for (const std::int32_t length : {1, 12, 3, 33, 2, 8, 1, 5, 9})
    ids.push_back(dice.ids(length, model.info().vocab));
  const auto batched = all_rows(model, ids);
  const auto chunked = all_rows(small, ids);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(batched[i].size(), ids[i].size());
    const auto alone = all_rows(model, {ids[i]})[0];
    for (std::size_t t = 0; t < ids[i].size(); ++t) {
      ASSERT_TRUE(same_bits(batched[i][t], alone[t])) << "sequence " << i << " token " << t;
      ASSERT_TRUE(same_bits(chunked[i][t], alone[t])) << "sequence " << i << " token " << t;
    }
  }
}

TEST_F(MetalModel, UsesTheFilesMapping) {
  const auto mapped = [] {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
      if (line.ends_with("tiny-gqa-Q4_K_M.gguf")) return true;
    return false;
  };
  EXPECT_FALSE(mapped());
  {
    const LlamaModel model = open(DeviceType::metal_emulated, 40);
    EXPECT_TRUE(mapped());
  }
  EXPECT_FALSE(mapped());
}

TEST_F(MetalModel, TimesOfOps) {
  ModelOptions options;
  options.device = DeviceType::metal_emulated;
  options.batch_size = 2, options.context = 32, options.profile = true;
  LlamaModel model = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  EXPECT_TRUE(model.op_times().empty());
  const std::vector<std::vector<TokenId>> ids = {{1, 2, 3}, {4}};
  const auto timed = model.forward_batch(ids);
  ASSERT_TRUE(timed.ok());
  const auto layers = static_cast<std::uint64_t>(model.info().layers);
  const std::map<std::string, std::uint64_t> calls = {
      {"embed", 1},           {"rms_norm", 2 * layers + 1},   {"matmul", 5 * layers + 1},
      {"rope_store", layers}, {"matmul with swiglu", layers}, {"attention", layers}};
  std::map<std::string, std::uint64_t> found;
  for (const OpTime& t : model.op_times()) {
    found[t.op] = t.calls;
    EXPECT_FALSE(!(t.seconds > 0 && t.seconds < 100)) << t.op << " " << t.seconds;
  }
  EXPECT_EQ(found, calls);
  EXPECT_TRUE(std::ranges::is_sorted(model.op_times(), std::greater(), &OpTime::seconds));
  LlamaModel plain = open(DeviceType::metal_emulated, 40);
  const auto untimed = plain.forward_batch(ids);
  ASSERT_TRUE(untimed.ok() && plain.op_times().empty());
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_TRUE(same_bits((*timed)[i], (*untimed)[i]));
  options.device = DeviceType::cpu;
  const auto other = LlamaModel::from_gguf(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().message,
            "device cpu: times by op are kept on metal and metal-emulated only");
}

/// Decoding rows beside a prompt's: steps of mixed kinds.
TEST_F(MetalModel, DecodingBesideAPrompt) {
  test::Dice dice(92);
  LlamaModel model = open(DeviceType::metal_emulated, 40);
  const auto a = dice.ids(6, model.info().vocab), b = dice.ids(11, model.info().vocab);
  const auto rows = all_rows(model, {a, b});
  model.clear_batch();
  using Ids = std::vector<std::vector<TokenId>>;
  ASSERT_TRUE(model.forward_batch(Ids{{a.begin(), a.end() - 1}}).ok());
  const auto mixed = model.forward_batch(Ids{{a.back()}, b});
  ASSERT_TRUE(mixed.ok());
  ASSERT_TRUE(same_bits((*mixed)[0], rows[0].back()));
  ASSERT_TRUE(same_bits((*mixed)[1], rows[1].back()));
}

TEST_F(MetalModel, GreedyTokensAreTheReferencesButForNearTies) {
  LlamaModel metal = open(DeviceType::metal_emulated, 40),
             reference = open(DeviceType::reference, 40);
  test::Dice dice(93);
  for (int i = 0; i < 3; ++i) {
    const auto prompt = dice.ids(dice.roll(1, 12), metal.info().vocab);
    GenerateRequest request;
    request.ids = prompt;
    request.max_tokens = 12;
    request.ignore_end = true;
    const auto got = generate(metal, std::span(&request, 1));
    const auto wanted = generate(reference, std::span(&request, 1));
    ASSERT_TRUE(got.ok() && wanted.ok());
    auto ids = prompt;
    for (std::size_t t = 0; t < (*wanted)[0].ids.size(); ++t) {
      ASSERT_LT(t, (*got)[0].ids.size());
      if ((*got)[0].ids[t] != (*wanted)[0].ids[t]) {
        const auto logits = all_rows(reference, {ids})[0].back();
        const float margin = logits[static_cast<std::size_t>((*wanted)[0].ids[t])] -
                             logits[static_cast<std::size_t>((*got)[0].ids[t])];
        ASSERT_FALSE(!(margin < 0.02f)) << "sequence " << i << " token " << t;
        break;
      }
      ids.push_back((*wanted)[0].ids[t]);
    }
  }
}

TEST_F(MetalModel, GenerationIsTheSameHoweverItIsSampled) {
  LlamaModel model = open(DeviceType::metal_emulated, 40);
  test::Dice dice(94);
  auto requests = test::drawn_requests(dice, 6, 12, 10, model.info().vocab);
  std::vector<GenerateResult> on_host;
  ASSERT_NO_FATAL_FAILURE(test::expect_the_same_however_sampled(model, requests, on_host));
}

}  // namespace
}  // namespace herd
