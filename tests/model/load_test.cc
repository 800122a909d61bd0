// A file's tensors against the table, the rope table, the memory plan, and the steps of forward().
#include "model/loader.h"

#include <gtest/gtest.h>

#include "base/half.h"
#include "tiny_model.h"

namespace herd {
namespace {

using test::tiny_model;
using test::TinyModel;

ModelLimits small_limits() {
  ModelLimits limits;
  limits.context = 64, limits.max_rows = 8, limits.max_logits = 4, limits.kv_pages = 4;
  return limits;
}

Result<std::unique_ptr<Model>> load(const TinyModel& model, const ProgressFn& progress = {}) {
  const auto bytes = model.bytes();
  const auto file = gguf::parse(bytes);
  if (!file.ok()) return file.error();
  auto backend = make_reference_backend({});
  const auto plan = Model::plan(*file, **backend, small_limits());
  auto loaded = Model::load(*file, std::move(*backend), small_limits(), progress);
  EXPECT_EQ(plan.ok(), loaded.ok()) << "plan refuses what load refuses";
  return loaded;
}

void expect_refused(const TinyModel& model, Code code, const std::vector<std::string>& words) {
  const auto loaded = load(model);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, code) << loaded.error().message;
  for (const std::string& word : words)
    EXPECT_NE(loaded.error().message.find(word), std::string::npos) << loaded.error().message;
}

TEST(ModelLoad, EveryMissingTensorIsNamed) {
  for (const auto& [name, tensor] : tiny_model().tensors) {
    if (name == "token_embd.weight") continue;  // config_test: a vocabulary alone
    SCOPED_TRACE(name);
    TinyModel model = tiny_model();
    model.tensors.erase(name);
    expect_refused(model, Code::corrupt, {name, "no such tensor"});
  }
}

TEST(ModelLoad, EveryWrongShapeIsNamed) {
  for (const auto& [name, tensor] : tiny_model().tensors) {
    SCOPED_TRACE(name);
    TinyModel model = tiny_model();
    auto& t = model.tensors[name];
    t.shape[0] += 32;  // the embedding's length decides nothing: the key does
    const std::int64_t rows = t.shape.size() > 1 ? t.shape[1] : 1;
    t.values.resize(static_cast<std::size_t>(t.shape[0] * rows), 0.5f);
    expect_refused(model, Code::corrupt, {name, std::to_string(t.shape[0])});
  }
}

TEST(ModelLoad, TransposedMatricesAreRefused) {
  TinyModel model = tiny_model();
  std::swap(model.tensors["blk.1.ffn_up.weight"].shape[0],
            model.tensors["blk.1.ffn_up.weight"].shape[1]);
  expect_refused(model, Code::corrupt, {"blk.1.ffn_up.weight", "[96, 64]", "[64, 96]"});
}

TEST(ModelLoad, TensorsThatWouldBeIgnoredAreRefused) {
  for (const char* name : {"blk.0.attn_q.bias", "blk.2.attn_q.weight", "output.bias",
                           "blk.0.attn_q_norm.weight", "blk.0.ffn_gate_inp.weight"}) {
    TinyModel model = tiny_model();
    model.add_vector(name, 64, 0, 1, 3);
    expect_refused(model, Code::unsupported, {name});
  }
}

TEST(ModelLoad, QuantisedNormsAreRefused) {
  TinyModel model = tiny_model();
  model.tensors["blk.1.ffn_norm.weight"].type = quant::Type::Q8_0;
  expect_refused(model, Code::unsupported, {"blk.1.ffn_norm.weight", "Q8_0"});
}

TEST(ModelLoad, WildRopeFactorsAreRefused) {
  for (const float factor : {0.0f, -2.0f, std::nanf(""), INFINITY}) {
    test::TinyShape shape;
    shape.rope_freqs = true;
    TinyModel model = tiny_model(shape);
    model.tensors["rope_freqs.weight"].values[5] = factor;
    const auto bytes = model.bytes();
    const auto file = gguf::parse(bytes);
    ASSERT_TRUE(file.ok());
    const auto loaded =
        Model::load(*file, std::move(*make_reference_backend({})), small_limits(), {});
    ASSERT_FALSE(loaded.ok()) << factor;
    EXPECT_NE(loaded.error().message.find("rope_freqs.weight[5]"), std::string::npos)
        << loaded.error().message;
  }
}

TEST(ModelLoad, ProgressEndsAtTheTotal) {
  test::TinyShape shape;
  shape.rope_freqs = true, shape.tied = false;
  std::int64_t last = 0, total = 0;
  bool ascends = true;
  const auto model = load(tiny_model(shape), [&](std::int64_t done, std::int64_t all) {
    ascends = ascends && done >= last;
    last = done, total = all;
  });
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_TRUE(ascends);
  EXPECT_GT(total, 100'000);
  EXPECT_EQ(last, total);
}

TEST(ModelLoad, PlanAddsUp) {
  const auto bytes = tiny_model().bytes();
  const auto file = gguf::parse(bytes);
  const auto backend = make_reference_backend({});
  const auto plan = Model::plan(*file, **backend, small_limits());
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  const std::int64_t layer = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64 + 2 * 64;
  EXPECT_EQ(plan->weights, 4 * (101 * 64 + 2 * layer + 64));
  EXPECT_EQ(plan->kv, plan->kv_per_token * 4 * 32);
  const std::int64_t row = 2 * 64 + 2 * 64 + 2 * 32 + 2 * 96, logit = 64 + 101;
  EXPECT_EQ(plan->activations, 4 * (8 * row + 4 * logit + 64 * 16));
  EXPECT_EQ(plan->total(), plan->weights + plan->kv + plan->activations + plan->scratch);
}

// ---- the rope table ----

TEST(RopeTable, FollowsTheFormula) {
  ModelConfig c;
  c.rope_size = 8, c.rope_base = 500.0f, c.rope_scale = 4.0f;
  const std::vector<float> factors = {1.0f, 2.0f, 3.0f, 8.0f};
  const auto table = make_rope_table(c, 100, factors);
  ASSERT_TRUE(table.ok());
  ASSERT_EQ(table->size(), 100u * 8u);
  for (int position = 0; position < 100; ++position)
    for (int i = 0; i < 4; ++i) {
      const float frequency = static_cast<float>(std::pow(500.0, -2.0 * i / 8)) /
                              factors[static_cast<std::size_t>(i)] / 4.0f;
      const float angle = static_cast<float>(position) * frequency;
      const auto at = static_cast<std::size_t>(position * 8 + 2 * i);
      EXPECT_EQ((*table)[at], static_cast<float>(std::cos(static_cast<double>(angle))));
      EXPECT_EQ((*table)[at + 1], static_cast<float>(std::sin(static_cast<double>(angle))));
    }
}

// ---- vectors in other types; the steps by name ----

Batch one_sequence(const std::vector<TokenId>& ids) {
  Batch batch;
  const auto n = static_cast<std::int32_t>(ids.size());
  batch.ids = ids;
  for (std::int32_t i = 0; i < n; ++i) batch.positions.push_back(i), batch.slots.push_back(i);
  batch.sequences = {{0, n, n, 0}};
  batch.block_table = {0};
  batch.logit_rows = {n - 1};
  return batch;
}

std::vector<float> logits_of(Model& model, const Batch& batch) {
  const float* p = model.forward(batch);
  std::vector<float> logits(batch.logit_rows.size() * 101);
  EXPECT_TRUE(model.backend()
                  .download(logits.data(), p, static_cast<std::int64_t>(logits.size()) * 4)
                  .ok());
  return logits;
}

TEST(ModelForward, NormsMayBeHalves) {
  for (const quant::Type type : {quant::Type::F16, quant::Type::BF16}) {
    TinyModel rounded = tiny_model(), stored = tiny_model();
    for (auto& [name, tensor] : rounded.tensors)
      if (name.ends_with("norm.weight"))
        for (float& v : tensor.values)
          v = type == quant::Type::F16 ? half_to_float(float_to_half(v))
                                       : bf16_to_float(float_to_bf16(v));
    for (auto& [name, tensor] : stored.tensors)
      if (name.ends_with("norm.weight")) tensor.type = type;
    auto a = load(rounded), b = load(stored);
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_EQ(logits_of(**a, one_sequence({1, 2, 3})), logits_of(**b, one_sequence({1, 2, 3})));
  }
}

TEST(ModelForward, IsItsStepsInOrder) {
  auto a = load(tiny_model()), b = load(tiny_model());
  ASSERT_TRUE(a.ok() && b.ok());
  const Batch batch = one_sequence({5, 6, 7, 8});
  const StepRows step = (*b)->backend().begin_step(batch);
  (*b)->embed(step);
  for (std::int32_t layer = 0; layer < 2; ++layer) (*b)->process_layer(layer, step);
  const float* p = (*b)->output(step);
  const auto expected = logits_of(**a, batch);
  EXPECT_EQ(std::vector<float>(p, p + 101), expected);
}

TEST(ModelForward, LinearScalingReachesTheTable) {
  TinyModel scaled = tiny_model();
  scaled.keys["llama.rope.scaling.type"] = test::value("linear");
  scaled.keys["llama.rope.scaling.factor"] = test::value(4.0f);
  auto plain = load(tiny_model()), other = load(scaled);
  ASSERT_TRUE(plain.ok() && other.ok());
  const Batch batch = one_sequence({5, 6, 7, 8});
  EXPECT_NE(logits_of(**plain, batch), logits_of(**other, batch));
}

}  // namespace
}  // namespace herd
