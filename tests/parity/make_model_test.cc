// Made models: what another reader of the file relies on, and that their numbers are sane.
#include "model/make_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <set>

#include "herd/llama.h"
#include "model/model.h"
#include "token/tokenizer.h"

namespace herd {
namespace {

using quant::Type;

struct Made {
  std::vector<std::byte> bytes;
  gguf::File file;
};
/// Never null; an empty file after a failure that has been reported.
std::unique_ptr<Made> make(std::string_view shape, std::string_view recipe,
                           std::uint64_t seed = 1) {
  auto made = std::make_unique<Made>();
  const auto writer = random_model(shape, recipe, seed);
  if (!writer.ok()) {
    ADD_FAILURE() << writer.error().message;
    return made;
  }
  auto bytes = writer->to_bytes();
  EXPECT_TRUE(bytes.ok()) << bytes.error().message;
  EXPECT_EQ(bytes->size(), writer->file_bytes());
  made->bytes = *std::move(bytes);
  auto file = gguf::parse(made->bytes);
  EXPECT_TRUE(file.ok()) << file.error().message;
  if (file.ok()) made->file = *std::move(file);
  return made;
}
Type type_of(const gguf::File& file, std::string_view tensor) {
  const gguf::TensorInfo* info = file.find_tensor(tensor);
  EXPECT_NE(info, nullptr) << tensor;
  return info != nullptr ? info->type : Type::F32;
}
std::vector<float> values_of(const gguf::File& file, const gguf::TensorInfo& tensor) {
  std::vector<std::byte> bytes(tensor.bytes);
  EXPECT_TRUE(file.read(tensor, 0, bytes).ok());
  std::vector<float> values(static_cast<std::size_t>(tensor.columns() * tensor.rows()));
  quant::dequantize(tensor.type, bytes, values);
  return values;
}

TEST(MakeModel, TinyReadsBackAsItsShape) {
  const auto made = make("tiny", "Q4_K_M");
  const auto config = read_config(made->file);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->hidden, 256);
  EXPECT_EQ(config->feed_forward, 512);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_size, 64);
  EXPECT_EQ(config->vocab, 512);
  EXPECT_EQ(config->context, 2048);
  EXPECT_EQ(config->rope_base, 10000.0f);
  EXPECT_EQ(config->rms_epsilon, 1e-5f);
  EXPECT_FALSE(config->tied_output);
  std::size_t wanted = 0;
  for (const TensorSpec& spec : tensor_table(*config)) {
    if (spec.name == "rope_freqs.weight") continue;  // tiny has none
    const gguf::TensorInfo* tensor = made->file.find_tensor(spec.name);
    ASSERT_NE(tensor, nullptr) << spec.name;
    EXPECT_EQ(tensor->columns(), spec.columns) << spec.name;
    EXPECT_EQ(tensor->rows(), spec.rows) << spec.name;
    ++wanted;
  }
  EXPECT_EQ(made->file.tensors().size(), wanted);
}

TEST(MakeModel, OneSeedOneFile) {
  const auto a = make("tiny", "Q4_K_M", 5), b = make("tiny", "Q4_K_M", 5);
  EXPECT_EQ(a->bytes, b->bytes);
  const auto c = make("tiny", "Q4_K_M", 6);
  ASSERT_EQ(a->bytes.size(), c->bytes.size());
  std::size_t different = 0;
  for (std::size_t i = 0; i < a->bytes.size(); ++i) different += a->bytes[i] != c->bytes[i] ? 1 : 0;
  EXPECT_GT(different, a->bytes.size() * 8 / 10);
}

TEST(MakeModel, KMRecipeRaisesTheUsualTensors) {
  const auto made = make("15m", "Q4_K_M");  // 6 layers: 2 and 5 are raised; rows of 288 and 768
  const gguf::File& file = made->file;
  EXPECT_EQ(type_of(file, "token_embd.weight"), Type::Q8_0);  // tied head, Q6_K does not fit
  EXPECT_EQ(file.find_tensor("output.weight"), nullptr);
  for (int i = 0; i < 6; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    const bool raised = i == 2 || i == 5;
    EXPECT_EQ(type_of(file, block + "attn_q.weight"), Type::Q5_0);
    EXPECT_EQ(type_of(file, block + "attn_v.weight"), raised ? Type::Q8_0 : Type::Q5_0);
    EXPECT_EQ(type_of(file, block + "ffn_down.weight"), raised ? Type::Q6_K : Type::Q4_K);
    EXPECT_EQ(type_of(file, block + "ffn_norm.weight"), Type::F32);
  }
}

TEST(MakeModel, SingleTypeRecipesAndTheirHeads) {
  EXPECT_EQ(type_of(make("tiny", "Q4_1")->file, "output.weight"), Type::Q6_K);
  EXPECT_EQ(type_of(make("tiny", "Q4_1")->file, "token_embd.weight"), Type::Q4_1);
  EXPECT_EQ(type_of(make("tiny", "Q8_0")->file, "output.weight"), Type::Q8_0);
  EXPECT_EQ(type_of(make("tiny", "F16")->file, "output.weight"), Type::F16);
  EXPECT_EQ(type_of(make("15m", "Q5_K")->file, "blk.0.attn_q.weight"), Type::Q5_1);
}

TEST(MakeModel, PublishedSizes) {
  // Bytes of the weights of real files of these models, to which metadata adds a few megabytes.
  const auto size = [](std::string_view shape) {
    return static_cast<double>(random_model(shape, "Q4_K_M", 1)->file_bytes());
  };
  EXPECT_NEAR(size("llama-3-8b"), 4.913e9, 0.01e9);
  EXPECT_NEAR(size("llama-3.2-1b"), 0.802e9, 0.01e9);
  EXPECT_NEAR(size("smollm2-135m"), 0.1045e9, 0.003e9);
}

class Recipes : public testing::TestWithParam<std::string_view> {};

/// Mean and spread of every matrix, against what that many draws can deviate.
TEST_P(Recipes, WeightsAreCentredAndOfUnitGain) {
  const auto made = make("tiny", GetParam());
  for (const gguf::TensorInfo& tensor : made->file.tensors()) {
    if (tensor.shape.size() < 2) continue;
    double sum = 0, squares = 0;
    const std::vector<float> values = values_of(made->file, tensor);
    for (const float v : values) {
      sum += v;
      squares += double(v) * v;
    }
    const double n = static_cast<double>(values.size());
    const double unit = 1 / std::sqrt(static_cast<double>(tensor.columns()));
    // Scales and signs are drawn once for 16 or 32 values: five deviations of so many draws.
    const double spread_bound = 2.25 / std::sqrt(n / 32) + 0.01;
    EXPECT_FALSE(!(std::fabs(std::sqrt(squares / n) / unit - 1) <= spread_bound)) << tensor.name;
    EXPECT_FALSE(!(std::fabs(sum / n) / unit <= 5 / std::sqrt(n / 32))) << tensor.name;
  }
}

/// The file as a user meets it: loaded and run, every logit finite and of ordinary size.
TEST_P(Recipes, RunsWithSaneLogits) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("herd-made-" + std::string(GetParam()) + std::to_string(::getpid()) + ".gguf");
  const Status written = make_model("tiny", GetParam(), 3, path.string());
  ASSERT_TRUE(written.ok()) << written.error().message;
  ModelOptions options;
  options.threads = 1;
  options.batch_size = 1;
  options.context = 64;
  auto model = LlamaModel::from_gguf(path.string(), options);
  std::filesystem::remove(path);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const std::vector<std::vector<TokenId>> ids = {{1, 40, 300, 511, 7, 90}};
  const auto logits = model->forward_batch(ids);
  ASSERT_TRUE(logits.ok()) << logits.error().message;
  ASSERT_EQ((*logits)[0].size(), 512u);
  double squares = 0;
  for (const float v : (*logits)[0]) {
    ASSERT_TRUE(std::isfinite(v));
    squares += double(v) * v;
  }
  EXPECT_NEAR(std::sqrt(squares / 512), 1.0, 0.25);  // unit gain over a normalised row
}

INSTANTIATE_TEST_SUITE_P(MakeModel, Recipes, testing::ValuesIn(made_recipes()),
                         [](const auto& recipe) { return std::string(recipe.param); });

TEST(MakeModel, RopeDivisorsOfLlama32) {
  const std::vector<float> divisors = llama3_rope_divisors(64, 500000, 32);
  ASSERT_EQ(divisors.size(), 32u);
  // Wavelengths below 2048 positions stay, those beyond 8192 are stretched 32 times.
  for (std::size_t i = 0; i < 32; ++i) {
    const double wavelength = 6.283185307179586 * std::pow(500000.0, static_cast<double>(i) / 32);
    const bool exact = wavelength < 2048 || wavelength > 8192;
    const float expected = wavelength < 2048 ? 1.0f : 32.0f;
    EXPECT_TRUE(!exact || divisors[i] == expected) << i << ": " << divisors[i];
  }
  EXPECT_NEAR(divisors[15], 1.65133f, 1e-4);  // by the published formula
  EXPECT_NEAR(divisors[16], 3.29226f, 1e-4);
  EXPECT_NEAR(divisors[17], 9.66673f, 1e-4);
}

TEST(MakeModel, VocabularyTokenizes) {
  for (const std::string_view shape : {"tiny", "15m"}) {
    const auto made = make(shape, "Q8_0");
    const auto tokenizer = Tokenizer::from_gguf(made->file);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    const Tokenizer& t = **tokenizer;
    EXPECT_EQ(t.bos(), 1);
    EXPECT_EQ(t.eos(), 2);
    EXPECT_TRUE(t.is_control(0) && t.is_control(1) && t.is_control(2));
    std::set<std::string_view> unique;
    for (TokenId id = 0; id < t.vocab_size(); ++id) unique.insert(t.token(id));
    EXPECT_EQ(unique.size(), static_cast<std::size_t>(t.vocab_size()));
    const std::string text = "the cat, \xc3\xa9t\xc3\xa9 42!\n\x01\xff<|im_end|>";
    const auto ids = t.encode(text, {});
    EXPECT_LT(ids.size(), text.size() - 11);  // merges happened
    EXPECT_EQ(ids.back(), 2);
    EXPECT_EQ(*t.decode(ids, true), text);
  }
}

TEST(MakeModel, UnknownNamesAreRefusedWithTheKnownOnes) {
  const auto shape = random_model("llama-9", "Q4_K_M", 1);
  ASSERT_FALSE(shape.ok());
  EXPECT_EQ(shape.error().code, Code::invalid_argument);
  EXPECT_NE(shape.error().message.find("\"llama-9\""), std::string::npos);
  EXPECT_NE(shape.error().message.find("llama-3-8b, llama-3.2-1b"), std::string::npos);
  const Status recipe = make_model("tiny", "Q7", 1, "unused");
  ASSERT_FALSE(recipe.ok());
  EXPECT_NE(recipe.error().message.find("\"Q7\""), std::string::npos);
  EXPECT_NE(recipe.error().message.find("Q4_K_M"), std::string::npos);
  const Status place = make_model("tiny", "Q4_0", 1, "no/such/folder/x.gguf");
  ASSERT_FALSE(place.ok());
  EXPECT_EQ(place.error().code, Code::io);
}

}  // namespace
}  // namespace herd
