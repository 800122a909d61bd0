// Shapes, recipes (which tensor gets which type) and metadata of models made for measurements.
#include "model/make_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "base/rng.h"
#include "model/made_vocabulary.h"
#include "model/model.h"
#include "model/random_blocks.h"

namespace herd {
namespace {

using quant::Type;

struct Shape {
  std::string_view name;
  std::int32_t layers, hidden, feed_forward, heads, kv_heads, head_size, vocab, context;
  float rope_base;
  float rope_factor;  // Llama 3 long-context scaling by rope_freqs.weight; 0: none
  bool tied;
  bool llama3;  // its special tokens and pre-tokeniser; else SmolLM2's
};
constexpr Shape kShapes[] = {
    {"llama-3-8b", 32, 4096, 14336, 32, 8, 128, 128256, 8192, 500000, 0, false, true},
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 500000, 32, true, true},
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152, 8192, 100000, 0, true, false},
    {"15m", 6, 288, 768, 6, 6, 48, 32000, 2048, 10000, 0, true, false},
    {"tiny", 2, 256, 512, 4, 2, 64, 512, 2048, 10000, 0, false, false},
};

struct Recipe {
  std::string_view name;
  Type type;
  std::uint32_t file_type;  // general.file_type, by llama.cpp's numbers
  bool mixed;               // some matrices get Q6_K
};
constexpr Recipe kRecipes[] = {
    {"F32", Type::F32, 0, false},        {"F16", Type::F16, 1, false},
    {"BF16", Type::BF16, 32, false},     {"Q4_0", Type::Q4_0, 2, false},
    {"Q4_1", Type::Q4_1, 3, false},      {"Q5_0", Type::Q5_0, 8, false},
    {"Q5_1", Type::Q5_1, 9, false},      {"Q8_0", Type::Q8_0, 7, false},
    {"Q2_K", Type::Q2_K, 10, false},     {"Q3_K", Type::Q3_K, 11, false},
    {"Q4_K", Type::Q4_K, 14, false},     {"Q4_K_M", Type::Q4_K, 15, true},
    {"Q5_K", Type::Q5_K, 16, false},     {"Q5_K_M", Type::Q5_K, 17, true},
    {"Q6_K", Type::Q6_K, 18, false},     {"IQ4_NL", Type::IQ4_NL, 25, false},
    {"IQ4_XS", Type::IQ4_XS, 30, false},
};

template <class Row, std::size_t N>
std::vector<std::string_view> names(const Row (&table)[N]) {
  std::vector<std::string_view> out;
  for (const Row& row : table) out.push_back(row.name);
  return out;
}
template <class Row, std::size_t N>
Result<const Row*> find(const Row (&table)[N], std::string_view what, std::string_view name) {
  for (const Row& row : table)
    if (row.name == name) return &row;
  return Error{Code::invalid_argument, fmt::format("{} \"{}\" is unknown; known are {}", what, name,
                                                   fmt::join(names(table), ", "))};
}

ModelConfig config_of(const Shape& s) {
  ModelConfig c;
  c.architecture = "llama";
  c.layers = s.layers;
  c.hidden = s.hidden;
  c.feed_forward = s.feed_forward;
  c.heads = s.heads;
  c.kv_heads = s.kv_heads;
  c.head_size = c.rope_size = s.head_size;
  c.vocab = s.vocab;
  c.context = s.context;
  c.rms_epsilon = 1e-5f;
  c.rope_base = s.rope_base;
  c.tied_output = s.tied;
  return c;
}

// ---- which type ----

/// The layers that K_M recipes give more bits: the first and last eighth, and every third between.
bool more_bits(std::int32_t layer, std::int32_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}
std::int32_t layer_of(std::string_view tensor) {  // "blk.12.attn_v.weight"
  std::int32_t layer = -1;
  if (tensor.starts_with("blk.")) std::from_chars(tensor.data() + 4, tensor.end(), layer);
  return layer;
}
/// What other writers take for rows that are no multiple of 256.
Type with_blocks_of_32(Type type) {
  switch (type) {
    case Type::Q4_K: return Type::Q5_0;
    case Type::Q5_K: return Type::Q5_1;
    case Type::Q6_K: return Type::Q8_0;
    default: return Type::IQ4_NL;  // Q2_K, Q3_K, IQ4_XS
  }
}
Type type_of(const TensorSpec& tensor, const Recipe& recipe, const ModelConfig& c) {
  if (!tensor.matrix) return Type::F32;
  Type type = recipe.type;
  const bool quantised = quant::type_info(type).block > 1;
  const bool head = tensor.name == (c.tied_output ? "token_embd.weight" : "output.weight");
  const bool raised =
      tensor.name.ends_with("attn_v.weight") || tensor.name.ends_with("ffn_down.weight");
  if (head && quantised && type != Type::Q8_0) type = Type::Q6_K;
  if (recipe.mixed && raised && more_bits(layer_of(tensor.name), c.layers)) type = Type::Q6_K;
  if (quant::type_info(type).block == 256 && tensor.columns % 256 != 0)
    type = with_blocks_of_32(type);
  return type;
}

// ---- tensors ----

/// Around 1, so that norms scale as trained ones do.
std::vector<float> norm_weights(std::int64_t n, std::uint64_t seed) {
  std::vector<float> out(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<float>(0.9 + 0.2 * counter_uniform(seed, i));
  return out;
}
void add_vector(gguf::Writer& writer, const TensorSpec& tensor, std::vector<float> values) {
  writer.add_tensor(tensor.name, Type::F32, {tensor.columns},
                    [values = std::move(values)](std::span<std::byte> out) {
                      std::ranges::copy(std::as_bytes(std::span(values)), out.begin());
                    });
}
void add_matrix(gguf::Writer& writer, const TensorSpec& tensor, Type type, std::uint64_t seed) {
  const double deviation = 1 / std::sqrt(static_cast<double>(tensor.columns));
  writer.add_tensor(tensor.name, type, {tensor.columns, tensor.rows},
                    [=](std::span<std::byte> out) { random_blocks(type, deviation, seed, out); });
}
void add_tensors(gguf::Writer& writer, const Shape& shape, const Recipe& recipe,
                 std::uint64_t seed) {
  const ModelConfig config = config_of(shape);
  std::uint64_t index = 0;
  for (const TensorSpec& tensor : tensor_table(config)) {
    const std::uint64_t own_seed = counter_bits(seed, index++);
    const bool rope = tensor.name == "rope_freqs.weight";
    if ((rope && shape.rope_factor == 0) || (tensor.name == "output.weight" && shape.tied))
      continue;
    if (rope)
      add_vector(writer, tensor,
                 llama3_rope_divisors(shape.head_size, shape.rope_base, shape.rope_factor));
    else if (tensor.matrix)
      add_matrix(writer, tensor, type_of(tensor, recipe, config), own_seed);
    else
      add_vector(writer, tensor, norm_weights(tensor.columns, own_seed));
  }
}

// ---- metadata ----

void add_config(gguf::Writer& writer, const Shape& shape, const Recipe& recipe) {
  const auto number = [&](std::string_view key, std::int32_t value) {
    writer.add(key, static_cast<std::uint32_t>(value));
  };
  writer.add("general.architecture", "llama");
  writer.add("general.type", "model");
  writer.add("general.name", fmt::format("{} {} random", shape.name, recipe.name));
  writer.add("general.file_type", recipe.file_type);
  writer.add("general.quantization_version", std::uint32_t{2});
  number("llama.vocab_size", shape.vocab);
  number("llama.context_length", shape.context);
  number("llama.embedding_length", shape.hidden);
  number("llama.block_count", shape.layers);
  number("llama.feed_forward_length", shape.feed_forward);
  number("llama.attention.head_count", shape.heads);
  number("llama.attention.head_count_kv", shape.kv_heads);
  number("llama.attention.key_length", shape.head_size);
  number("llama.attention.value_length", shape.head_size);
  number("llama.rope.dimension_count", shape.head_size);
  writer.add("llama.rope.freq_base", shape.rope_base);
  writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

struct Specials {
  std::string_view pre;
  std::vector<SpecialToken> tokens;
  TokenId bos, eos;
  bool add_bos;
};
Specials specials_of(const Shape& shape) {
  if (shape.llama3)
    return {"llama-bpe",
            {{128000, "<|begin_of_text|>"},
             {128001, "<|end_of_text|>"},
             {128006, "<|start_header_id|>"},
             {128007, "<|end_header_id|>"},
             {128009, "<|eot_id|>"}},
            128000,
            128001,
            true};
  return {"smollm", {{0, "<|endoftext|>"}, {1, "<|im_start|>"}, {2, "<|im_end|>"}}, 1, 2, false};
}
void add_vocabulary(gguf::Writer& writer, const Shape& shape) {
  const Specials specials = specials_of(shape);
  const MadeVocabulary vocabulary = make_vocabulary(shape.vocab, specials.tokens);
  writer.add("tokenizer.ggml.model", "gpt2");
  writer.add("tokenizer.ggml.pre", specials.pre);
  writer.add("tokenizer.ggml.tokens", std::span(vocabulary.tokens));
  writer.add("tokenizer.ggml.token_type", std::span(vocabulary.types));
  writer.add("tokenizer.ggml.merges", std::span(vocabulary.merges));
  writer.add("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(specials.bos));
  writer.add("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(specials.eos));
  writer.add("tokenizer.ggml.add_bos_token", specials.add_bos);
}

}  // namespace

std::vector<float> llama3_rope_divisors(std::int32_t rope_size, float base, float factor) {
  constexpr double kTrained = 8192, kLow = 1, kHigh = 4;
  std::vector<float> out;
  for (std::int32_t i = 0; i < rope_size / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(base, 2.0 * i / rope_size);
    const double smooth = std::clamp((kTrained / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
    out.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
  }
  return out;
}

std::vector<std::string_view> made_shapes() {
  return names(kShapes);
}
std::vector<std::string_view> made_recipes() {
  return names(kRecipes);
}

Result<gguf::Writer> random_model(std::string_view shape_name, std::string_view recipe_name,
                                  std::uint64_t seed) {
  const auto shape = find(kShapes, "shape", shape_name);
  if (!shape.ok()) return shape.error();
  const auto recipe = find(kRecipes, "type", recipe_name);
  if (!recipe.ok()) return recipe.error();
  gguf::Writer writer;
  add_config(writer, **shape, **recipe);
  add_vocabulary(writer, **shape);
  add_tensors(writer, **shape, **recipe, seed);
  return writer;
}

Status make_model(std::string_view shape, std::string_view recipe, std::uint64_t seed,
                  const std::string& path, const ProgressFn& progress) {
  const auto writer = random_model(shape, recipe, seed);
  return writer.ok() ? writer->write(path, progress) : Status(writer.error());
}

}  // namespace herd
