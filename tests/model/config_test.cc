// Hyper-parameters, right and wrong: every refusal names the key, what it holds and the limit.
#include "model/model.h"

#include <gtest/gtest.h>

#include "tiny_model.h"

namespace herd {
namespace {

using test::tiny_model;
using test::TinyModel;
using test::value;

Result<ModelConfig> read(const TinyModel& model) {
  const auto bytes = model.bytes();
  const auto file = gguf::parse(bytes);
  if (!file.ok()) return file.error();
  return read_config(*file);
}
Result<ModelConfig> read_with(const std::string& key, gguf::Value v) {
  TinyModel model = tiny_model();
  model.keys[key] = std::move(v);
  return read(model);
}

TEST(ModelConfig, ReadsEveryKey) {
  test::TinyShape shape;
  shape.layers = 3, shape.hidden = 96, shape.heads = 6, shape.kv_heads = 3, shape.head_size = 32;
  shape.feed_forward = 160, shape.vocab = 77, shape.context = 512;
  TinyModel model = tiny_model(shape);
  model.keys["llama.rope.freq_base"] = value(500000.0f);
  model.keys["llama.rope.dimension_count"] = value(16u);
  const auto c = read(model);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->architecture, "llama");
  EXPECT_EQ(c->layers, 3);
  EXPECT_EQ(c->hidden, 96);
  EXPECT_EQ(c->feed_forward, 160);
  EXPECT_EQ(c->heads, 6);
  EXPECT_EQ(c->kv_heads, 3);
  EXPECT_EQ(c->head_size, 32);  // not hidden / heads
  EXPECT_EQ(c->rope_size, 16);
  EXPECT_EQ(c->vocab, 77);
  EXPECT_EQ(c->context, 512);
  EXPECT_EQ(c->rms_epsilon, 1e-5f);
  EXPECT_EQ(c->rope_base, 500000.0f);
  EXPECT_EQ(c->rope_scale, 1.0f);
  EXPECT_TRUE(c->tied_output);
}

TEST(ModelConfig, Defaults) {
  TinyModel model = tiny_model();  // hidden 64, 4 heads
  for (const char* key :
       {"llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count",
        "llama.rope.freq_base", "llama.vocab_size", "llama.attention.head_count_kv"})
    model.keys.erase(key);
  model.add_matrix("output.weight", quant::Type::F32, 101, 64, 1);
  const auto c = read(model);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->head_size, 16);
  EXPECT_EQ(c->rope_size, 16);
  EXPECT_EQ(c->kv_heads, 4);
  EXPECT_EQ(c->rope_base, 10000.0f);
  EXPECT_EQ(c->vocab, 101);
  EXPECT_FALSE(c->tied_output);
}

TEST(ModelConfig, RopeScaling) {
  const auto scale = [](std::map<std::string, gguf::Value> keys) {
    TinyModel model = tiny_model();
    for (auto& [key, v] : keys) model.keys[key] = v;
    const auto c = read(model);
    return c.ok() ? c->rope_scale : -1.0f;
  };
  const std::string type = "llama.rope.scaling.type", factor = "llama.rope.scaling.factor",
                    older = "llama.rope.scale_linear";
  EXPECT_EQ(scale({{type, value("none")}}), 1.0f);
  EXPECT_EQ(scale({{type, value("none")}, {factor, value(4.0f)}}), 1.0f);
  EXPECT_EQ(scale({{type, value("linear")}, {factor, value(4.0f)}}), 4.0f);
  EXPECT_EQ(scale({{factor, value(4.0f)}}), 4.0f);
  EXPECT_EQ(scale({{older, value(2.0f)}}), 2.0f);
  EXPECT_EQ(scale({{type, value("linear")}, {older, value(2.0f)}}), 2.0f);
  EXPECT_EQ(scale({{older, value(2.0f)}, {factor, value(4.0f)}}), 4.0f);
}

// ---- the museum ----

struct Exhibit {
  const char* name;
  const char* key;
  gguf::Value v;
  Code code;
  std::vector<std::string> words;  // all in the message
};

class Museum : public testing::TestWithParam<Exhibit> {};

TEST_P(Museum, IsRefusedByName) {
  const Exhibit& e = GetParam();
  const auto c = read_with(e.key, e.v);
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.error().code, e.code) << c.error().message;
  EXPECT_NE(c.error().message.find(e.key), std::string::npos) << c.error().message;
  for (const std::string& word : e.words)
    EXPECT_NE(c.error().message.find(word), std::string::npos) << c.error().message;
  EXPECT_EQ(c.error().message.find('\n'), std::string::npos) << c.error().message;
}

const float kNan = std::nanf("");
const Exhibit kExhibits[] = {
    {"Architecture", "general.architecture", value("gpt-neox"), Code::unsupported, {"gpt-neox"}},
    {"ArchitectureType", "general.architecture", value(1u), Code::corrupt, {}},
    {"ZeroLayers", "llama.block_count", value(0u), Code::corrupt, {"0"}},
    {"WildLayers", "llama.block_count", value(100000u), Code::corrupt, {"100000"}},
    {"ZeroContext", "llama.context_length", value(0u), Code::corrupt, {}},
    {"WildContext", "llama.context_length", value(4000000000u), Code::corrupt, {"4000000000"}},
    {"ZeroHidden", "llama.embedding_length", value(0u), Code::corrupt, {}},
    {"WildHidden", "llama.embedding_length", value(1u << 30), Code::corrupt, {}},
    {"TextHidden", "llama.embedding_length", value("64"), Code::corrupt, {"string"}},
    {"ZeroFeedForward", "llama.feed_forward_length", value(0u), Code::corrupt, {}},
    {"ZeroHeads", "llama.attention.head_count", value(0u), Code::corrupt, {}},
    {"WildHeads", "llama.attention.head_count", value(1u << 20), Code::corrupt, {}},
    {"ZeroKvHeads", "llama.attention.head_count_kv", value(0u), Code::corrupt, {}},
    {"KvHeadsDoNotDivide",
     "llama.attention.head_count_kv",
     value(3u),
     Code::out_of_range,
     {"3", "4"}},
    {"MoreKvHeads", "llama.attention.head_count_kv", value(8u), Code::out_of_range, {"8", "4"}},
    {"ZeroHeadSize", "llama.attention.key_length", value(0u), Code::corrupt, {}},
    {"OtherValueSize", "llama.attention.value_length", value(32u), Code::unsupported, {"32", "16"}},
    {"OddRope", "llama.rope.dimension_count", value(15u), Code::out_of_range, {"15"}},
    {"WideRope", "llama.rope.dimension_count", value(32u), Code::out_of_range, {"32", "16"}},
    {"ZeroBase", "llama.rope.freq_base", value(0.0f), Code::out_of_range, {"0"}},
    {"NegativeBase", "llama.rope.freq_base", value(-1.0f), Code::out_of_range, {"-1"}},
    {"NanBase", "llama.rope.freq_base", value(kNan), Code::out_of_range, {"nan"}},
    {"InfiniteBase", "llama.rope.freq_base", value(INFINITY), Code::out_of_range, {"inf"}},
    {"ZeroScale", "llama.rope.scaling.factor", value(0.0f), Code::out_of_range, {}},
    {"NanScale", "llama.rope.scale_linear", value(kNan), Code::out_of_range, {"nan"}},
    {"Yarn", "llama.rope.scaling.type", value("yarn"), Code::unsupported, {"yarn"}},
    {"LongRope", "llama.rope.scaling.type", value("longrope"), Code::unsupported, {"longrope"}},
    {"ZeroEpsilon",
     "llama.attention.layer_norm_rms_epsilon",
     value(0.0f),
     Code::out_of_range,
     {"0"}},
    {"NanEpsilon",
     "llama.attention.layer_norm_rms_epsilon",
     value(kNan),
     Code::out_of_range,
     {"nan"}},
    {"IntegerEpsilon", "llama.attention.layer_norm_rms_epsilon", value(1u), Code::corrupt, {}},
    {"Experts", "llama.expert_count", value(8u), Code::unsupported, {"8"}},
    {"SlidingWindow", "llama.attention.sliding_window", value(4096u), Code::unsupported, {"4096"}},
    {"LogitScale", "llama.logit_scale", value(0.5f), Code::unsupported, {"0.5"}},
    {"OtherVocab", "llama.vocab_size", value(100u), Code::corrupt, {"100", "101"}},
    {"WildVocab", "llama.vocab_size", value(4000000000u), Code::corrupt, {"4000000000"}},
};
INSTANTIATE_TEST_SUITE_P(ModelConfig, Museum, testing::ValuesIn(kExhibits),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(ModelConfig, NothingRawFromTheFileInMessages) {
  const std::string text = "a\nb\x1b" + std::string(1000, 'c');
  for (const char* key : {"general.architecture", "llama.rope.scaling.type"}) {
    const auto c = read_with(key, value(text.c_str()));
    ASSERT_FALSE(c.ok()) << key;
    EXPECT_EQ(c.error().message.find_first_of("\n\x1b"), std::string::npos) << key;
    EXPECT_NE(c.error().message.find("\"a\\x0ab\\x1bc"), std::string::npos) << c.error().message;
    EXPECT_LT(c.error().message.size(), 200u);
  }
}

TEST(ModelConfig, MissingKeysAreNamed) {
  for (const char* key : {"general.architecture", "llama.block_count", "llama.context_length",
                          "llama.embedding_length", "llama.feed_forward_length",
                          "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"}) {
    TinyModel model = tiny_model();
    model.keys.erase(key);
    const auto c = read(model);
    ASSERT_FALSE(c.ok()) << key;
    EXPECT_EQ(c.error().code, Code::not_found) << c.error().message;
    EXPECT_NE(c.error().message.find(key), std::string::npos) << c.error().message;
  }
}

TEST(ModelConfig, HeadsMustDivideHiddenWithoutAKeyLength) {
  TinyModel model = tiny_model();
  model.keys.erase("llama.attention.key_length");
  model.keys["llama.attention.head_count"] = value(6u);
  const auto c = read(model);
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.error().code, Code::out_of_range);
  EXPECT_NE(c.error().message.find("llama.attention.head_count = 6"), std::string::npos)
      << c.error().message;
}

TEST(ModelConfig, AVocabularyAloneIsNoModel) {
  TinyModel model = tiny_model();
  model.tensors.clear();
  const auto c = read(model);
  ASSERT_FALSE(c.ok());
  EXPECT_NE(c.error().message.find("vocabulary-only"), std::string::npos) << c.error().message;
}

TEST(ModelConfig, HarmlessExtrasAreTaken) {
  TinyModel model = tiny_model();
  model.keys["llama.expert_count"] = value(0u);
  model.keys["llama.attention.sliding_window"] = value(0u);
  model.keys["llama.rope.scaling.attn_factor"] = value(1.0f);
  model.keys["general.something"] = value("else");
  EXPECT_TRUE(read(model).ok());
}

}  // namespace
}  // namespace herd
