// LlamaModel's batch calls: their values against each other, and every error, after which nothing
// may have changed.
#include <gtest/gtest.h>

#include <functional>

#include "tiny_model.h"
#include "token/tokenizer.h"

namespace herd {
namespace {

using Ids = std::vector<std::vector<TokenId>>;
using Rows = std::vector<std::vector<float>>;
using test::Dice;
using test::TempModel;

/// On the reference: vocabulary 101, context 64, 3 sequences, 128 tokens and 3 pages of KV.
class EngineForward : public testing::Test {
 protected:
  static ModelOptions options() {
    ModelOptions o;
    o.device = DeviceType::reference;
    o.batch_size = 3;
    o.context = 64;
    o.kv_tokens = 32;
    o.max_rows = 20;
    return o;
  }
  Rows forward(const Ids& ids) {
    auto rows = model_.forward_batch(ids);
    EXPECT_TRUE(rows.ok()) << rows.error().message;
    return rows.ok() ? *rows : Rows{};
  }
  Rows forward_at(const Ids& ids, const std::vector<std::int32_t>& start) {
    auto rows = model_.forward_batch_with_position(ids, start);
    EXPECT_TRUE(rows.ok()) << rows.error().message;
    return rows.ok() ? *rows : Rows{};
  }
  /// Logits after the last of `ids`, computed alone.
  std::vector<float> alone(const std::vector<TokenId>& ids) {
    LlamaModel other = test::load(file_.path(), options());
    std::vector<float> last;
    const Ids one = {ids};
    EXPECT_TRUE(other
                    .forward_all(one,
                                 [&](std::size_t, std::size_t, std::span<const float> row) {
                                   last.assign(row.begin(), row.end());
                                 })
                    .ok());
    return last;
  }
  void expect_error(const Result<Rows>& result, Code code, const std::vector<std::string>& words) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, code) << result.error().message;
    for (const std::string& word : words)
      EXPECT_NE(result.error().message.find(word), std::string::npos) << result.error().message;
  }

  TempModel file_;
  LlamaModel model_ = test::load(file_.path(), options());
};

TEST_F(EngineForward, ContinuesEachSequence) {
  EXPECT_EQ(forward({{1, 2, 3}, {4}})[1], alone({4}));
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{3, 1, 0}));
  const Rows rows = forward({{5}, {6, 7}, {8}});
  EXPECT_EQ(rows[0], alone({1, 2, 3, 5}));
  EXPECT_EQ(rows[1], alone({4, 6, 7}));
  EXPECT_EQ(rows[2], alone({8}));
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{4, 3, 1}));
}

TEST_F(EngineForward, AnEmptyListLeavesASequenceOut) {
  forward({{1, 2}, {3}, {4}});
  const Rows rows = forward({{}, {5}, {}});
  EXPECT_TRUE(rows[0].empty());
  EXPECT_EQ(rows[1], alone({3, 5}));
  EXPECT_TRUE(rows[2].empty());
  EXPECT_EQ(forward({{6}})[0], alone({1, 2, 6}));
  EXPECT_TRUE(forward({}).empty());
}

TEST_F(EngineForward, PromptsLongerThanAStep) {
  Dice dice(7);
  const auto ids = dice.ids(50, 101);  // max_rows is 20
  const Rows rows = forward({{1}, ids});
  EXPECT_EQ(rows[0], alone({1}));
  EXPECT_EQ(rows[1], alone(ids));
}

TEST_F(EngineForward, CutsBackToThePosition) {
  forward({{1, 2, 3, 4, 5}, {6, 7}});
  const Rows rows = forward_at({{9}, {8}}, {2, 2});
  EXPECT_EQ(rows[0], alone({1, 2, 9}));
  EXPECT_EQ(rows[1], alone({6, 7, 8}));
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{3, 3, 0}));
  forward_at({{}}, {0});  // nothing new: only the cut
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{0, 3, 0}));
  EXPECT_TRUE(model_.check_integrity().ok());
}

TEST_F(EngineForward, ForwardAllGivesEveryRow) {
  Dice dice(8);
  const Ids ids = {dice.ids(7, 101), {}, dice.ids(1, 101), dice.ids(40, 101), dice.ids(13, 101)};
  std::vector<Rows> rows(ids.size());
  const Status status = model_.forward_all(
      ids, [&](std::size_t sequence, std::size_t token, std::span<const float> row) {
        EXPECT_EQ(rows[sequence].size(), token);
        rows[sequence].emplace_back(row.begin(), row.end());
      });
  ASSERT_TRUE(status.ok()) << status.error().message;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(rows[i].size(), ids[i].size());
    model_.clear_batch();
    for (std::size_t t = 0; t < ids[i].size(); ++t)  // one by one through the other door
      EXPECT_EQ(forward({{ids[i][t]}})[0], rows[i][t]) << i << " " << t;
  }
}

TEST_F(EngineForward, ForwardAllErrors) {
  const auto ignore = [](std::size_t, std::size_t, std::span<const float>) {};
  const Status unknown = model_.forward_all(Ids{{1}, {2, 101}}, ignore);
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, Code::invalid_argument);
  EXPECT_NE(unknown.error().message.find("sequence 1: token 1 is id 101"), std::string::npos)
      << unknown.error().message;
  const Status longer = model_.forward_all(Ids{std::vector<TokenId>(65, 1)}, ignore);
  ASSERT_FALSE(longer.ok());
  EXPECT_EQ(longer.error().code, Code::out_of_range);
  EXPECT_NE(longer.error().message.find("65 tokens"), std::string::npos);
}

TEST_F(EngineForward, ErrorsChangeNothing) {
  forward({{1, 2, 3}, {4, 5}});
  const std::vector<std::int32_t> cached = model_.cached_tokens();
  const std::vector<TokenId> one = {1};
  const auto at = [&](const Ids& ids, const std::vector<std::int32_t>& start) {
    return model_.forward_batch_with_position(ids, start);
  };
  expect_error(model_.forward_batch(Ids{one, one, one, one}), Code::invalid_argument,
               {"4 sequences", "batch_size is 3"});
  expect_error(model_.forward_batch(Ids{{6}, {7, 101}}), Code::invalid_argument,
               {"sequence 1", "101", "100"});
  expect_error(model_.forward_batch(Ids{{6}, {-1}}), Code::invalid_argument, {"-1"});
  expect_error(model_.forward_batch(Ids{std::vector<TokenId>(62, 1)}), Code::out_of_range,
               {"sequence 0", "65", "64"});
  expect_error(at({one, one}, {0}), Code::invalid_argument, {"1 start", "2 sequences"});
  expect_error(at({one, one}, {1, 3}), Code::out_of_range, {"sequence 1", "3", "2"});
  expect_error(at({one}, {-1}), Code::out_of_range, {"-1"});
  EXPECT_EQ(model_.cached_tokens(), cached);
  EXPECT_TRUE(model_.check_integrity().ok());
  EXPECT_EQ(forward({{6}, {7}})[1], alone({4, 5, 7}));
}

TEST_F(EngineForward, NoRoomInTheCacheChangesNothing) {
  // 32 tokens and a part page for each of 3 sequences: 4 pages of 32.
  forward({std::vector<TokenId>(40, 1), std::vector<TokenId>(20, 2)});  // 2 + 1 pages
  const std::vector<TokenId> longest(40, 3);
  expect_error(model_.forward_batch(Ids{{}, {}, longest}), Code::resource_exhausted,
               {"2 pages", "1 free"});
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{40, 20, 0}));
  // Cutting one sequence back in the same call makes the room.
  const Rows rows = forward_at({{4}, {}, longest}, {0, 20, 0});
  EXPECT_EQ(rows[0], alone({4}));
  EXPECT_EQ(rows[2], alone(longest));
  EXPECT_TRUE(model_.check_integrity().ok());
}

TEST_F(EngineForward, TheWholeContextCanBeUsed) {
  Dice dice(9);
  const auto ids = dice.ids(64, 101);
  EXPECT_EQ(forward({ids})[0], alone(ids));
  expect_error(model_.forward_batch(Ids{{1}}), Code::out_of_range, {"65", "64"});
}

TEST_F(EngineForward, BatchSizeClearsAndBounds) {
  forward({{1}, {2}, {3}});
  ASSERT_TRUE(model_.set_batch_size(2).ok());
  EXPECT_EQ(model_.batch_size(), 2);
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{0, 0}));
  expect_error(model_.forward_batch(Ids{{1}, {2}, {3}}), Code::invalid_argument,
               {"3 sequences", "batch_size is 2"});
  for (const std::int32_t wrong : {0, -1, 4}) {
    const Status status = model_.set_batch_size(wrong);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find(std::to_string(wrong)), std::string::npos);
    EXPECT_NE(status.error().message.find("1 to 3"), std::string::npos);
  }
  EXPECT_EQ(model_.batch_size(), 2);
  EXPECT_TRUE(model_.set_batch_size(3).ok());
}

TEST_F(EngineForward, Clearing) {
  forward({{1, 2}, {3}, {4}});
  ASSERT_TRUE(model_.clear_sequence(0).ok());
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{0, 1, 1}));
  EXPECT_EQ(forward({{9}, {5}})[0], alone({9}));
  for (const std::int32_t wrong : {-1, 3}) EXPECT_FALSE(model_.clear_sequence(wrong).ok());
  model_.clear_batch();
  EXPECT_EQ(model_.cached_tokens(), (std::vector<std::int32_t>{0, 0, 0}));
  EXPECT_TRUE(model_.check_integrity().ok());
}

TEST_F(EngineForward, MovesAndTellsAboutItself) {
  forward({{1, 2}});
  LlamaModel moved = std::move(model_);
  EXPECT_EQ(moved.cached_tokens()[0], 2);
  const ModelInfo info = moved.info();
  EXPECT_EQ(info.architecture, "llama");
  EXPECT_EQ(info.backend, "reference, 1 thread");
  EXPECT_EQ(info.layers, 2);
  EXPECT_EQ(info.hidden, 64);
  EXPECT_EQ(info.heads, 4);
  EXPECT_EQ(info.kv_heads, 2);
  EXPECT_EQ(info.head_size, 16);
  EXPECT_EQ(info.vocab, 101);
  EXPECT_EQ(moved.counters().steps, 1u);
  EXPECT_EQ(moved.counters().rows, 2u);
  model_ = std::move(moved);
  EXPECT_EQ(model_.cached_tokens()[0], 2);
}

TEST_F(EngineForward, WithoutATokeniserTextFailsAndIdsWork) {
  EXPECT_EQ(model_.tokenizer(), nullptr);
  const auto ids = model_.encode("text", false);
  ASSERT_FALSE(ids.ok());
  EXPECT_NE(ids.error().message.find("tokenizer.ggml.model"), std::string::npos)
      << ids.error().message;
  EXPECT_FALSE(model_.decode(std::vector<TokenId>{1}).ok());
}

// ---- opening ----

TEST(EngineOpen, Errors) {
  const auto absent = LlamaModel::from_gguf("/no/such/model.gguf");
  ASSERT_FALSE(absent.ok());
  EXPECT_EQ(absent.error().code, Code::not_found);
  EXPECT_NE(absent.error().message.find("/no/such/model.gguf"), std::string::npos);

  const std::string vocabulary = test::data_file("tiny-spm-vocab.gguf");
  const auto bare = LlamaModel::from_gguf(vocabulary);
  ASSERT_FALSE(bare.ok());
  EXPECT_NE(bare.error().message.find(vocabulary), std::string::npos) << bare.error().message;
  EXPECT_FALSE(LlamaModel::plan(vocabulary).ok());

  const auto text = LlamaModel::from_gguf(test::data_file("README.md"));
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.error().code, Code::corrupt) << text.error().message;
}

struct WrongOption {
  const char* name;
  std::function<void(ModelOptions&)> set;
  std::vector<std::string> words;
};
TEST(EngineOpen, OptionsOutsideTheirLimits) {
  const WrongOption wrong[] = {
      {"batch_size", [](ModelOptions& o) { o.batch_size = 0; }, {"batch_size 0"}},
      {"batch_size", [](ModelOptions& o) { o.batch_size = 1 << 20; }, {"1048576", "4096"}},
      {"context", [](ModelOptions& o) { o.context = -1; }, {"context -1"}},
      {"context", [](ModelOptions& o) { o.context = 257; }, {"257", "256"}},
      {"max_rows", [](ModelOptions& o) { o.max_rows = -1; }, {"max_rows -1"}},
      {"kv_tokens", [](ModelOptions& o) { o.kv_tokens = -5; }, {"kv_tokens -5"}},
  };
  TempModel file;
  for (const WrongOption& w : wrong) {
    ModelOptions options;
    w.set(options);
    const auto model = LlamaModel::from_gguf(file.path(), options);
    ASSERT_FALSE(model.ok()) << w.name;
    EXPECT_EQ(model.error().code, Code::out_of_range) << model.error().message;
    for (const std::string& word : w.words)
      EXPECT_NE(model.error().message.find(word), std::string::npos) << model.error().message;
  }
}

TEST(EngineOpen, RowsOfAStepAreTheDevicesUnlessTold) {
  TempModel file;
  const auto activations = [&](DeviceType device, std::int32_t max_rows) {
    ModelOptions options;
    options.device = device, options.max_rows = max_rows;
    const auto need = LlamaModel::plan(file.path(), options);
    EXPECT_TRUE(need.ok());
    return need.ok() ? need->activations : 0;
  };
  EXPECT_EQ(ModelOptions().max_rows, 0);
  EXPECT_EQ(activations(DeviceType::cpu, 0), activations(DeviceType::cpu, 512));
  EXPECT_LT(activations(DeviceType::cpu, 0), activations(DeviceType::cpu, 2048));
  if (!make_backend({DeviceType::cuda, 1, Isa::automatic}).ok()) return;
  EXPECT_EQ(activations(DeviceType::cuda, 0), activations(DeviceType::cuda, 2048));
}

TEST(EngineOpen, MoreMemoryThanThereIsIsRefusedBeforeItIsTaken) {
  TempModel file;
  ModelOptions options;
  options.batch_size = 1;
  options.kv_tokens = std::int64_t{1} << 30;  // 2^30 tokens of 520 bytes and more
  const auto need = LlamaModel::plan(file.path(), options);
  ASSERT_TRUE(need.ok()) << need.error().message;
  if (need->total <= need->available) GTEST_SKIP() << "a very large machine";
  const auto model = LlamaModel::from_gguf(file.path(), options);
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.error().code, Code::resource_exhausted);
  for (const char* word : {"weights", "KV", "activations", "scratch", "available", "kv_tokens"})
    EXPECT_NE(model.error().message.find(word), std::string::npos) << model.error().message;
}

TEST(EngineOpen, ThePlanIsWhatIsLoaded) {
  TempModel file;
  ModelOptions options;
  options.batch_size = 5;
  options.context = 100;
  const auto need = LlamaModel::plan(file.path(), options);
  ASSERT_TRUE(need.ok()) << need.error().message;
  EXPECT_EQ(need->context, 100);
  EXPECT_EQ(need->batch_size, 5);
  EXPECT_GE(need->kv_tokens, 500);
  EXPECT_EQ(need->kv, need->kv_per_token * need->kv_tokens);
  EXPECT_EQ(need->total,
            need->weights + need->kv + need->activations + need->scratch + need->runtime);
  EXPECT_GT(need->available, 0);
  LlamaModel model = test::load(file.path(), options);
  EXPECT_EQ(model.info().weight_bytes, need->weights);
  // As promised: every sequence can be as long as the context.
  const auto rows = model.forward_batch(Ids(5, std::vector<TokenId>(100, 7)));
  EXPECT_TRUE(rows.ok()) << rows.error().message;
}

TEST(EngineOpen, TextAndIds) {
  ModelOptions options;
  options.context = 64;
  LlamaModel model = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  ASSERT_NE(model.tokenizer(), nullptr);
  const auto ids = model.encode("the cat", true);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->front(), model.tokenizer()->bos());
  const auto text = model.decode(std::span(*ids).subspan(1));
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, "the cat");
  EXPECT_FALSE(model.decode(std::vector<TokenId>{320}).ok());
}

}  // namespace
}  // namespace herd
