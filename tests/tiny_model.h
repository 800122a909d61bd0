// Small random models as GGUF files, every key and tensor open to change before they are written.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/rng.h"
#include "gguf/gguf.h"
#include "herd/llama.h"

namespace herd::test {

inline gguf::Value value(std::uint32_t number) {
  gguf::Value v;
  v.type = gguf::ValueType::u32;
  v.unsigned_value = number;
  return v;
}
inline gguf::Value value(float number) {
  gguf::Value v;
  v.type = gguf::ValueType::f32;
  v.real_value = static_cast<double>(number);
  return v;
}
inline gguf::Value value(const char* text) {
  gguf::Value v;
  v.type = gguf::ValueType::string;
  v.text = text;
  return v;
}

struct TinyTensor {
  quant::Type type = quant::Type::F32;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

/// What a tiny model is made from. Sizes that are multiples of 32 take every 32-block type.
struct TinyShape {
  std::int32_t layers = 2, hidden = 64, heads = 4, kv_heads = 2, head_size = 16;
  std::int32_t feed_forward = 96, vocab = 101, context = 256;
  quant::Type type = quant::Type::F32;
  bool tied = true, rope_freqs = false;
  std::uint64_t seed = 1;
};

struct TinyModel {
  std::map<std::string, gguf::Value> keys;
  std::map<std::string, TinyTensor> tensors;

  void add_vector(const std::string& name, std::int64_t size, float low, float high,
                  std::uint64_t seed) {
    add({quant::Type::F32, {size}, {}}, name, low, high, seed);
  }
  /// Random with the variance that keeps activations near 1.
  void add_matrix(const std::string& name, quant::Type type, std::int64_t rows,
                  std::int64_t columns, std::uint64_t seed) {
    const float width = std::sqrt(3.0f / static_cast<float>(columns));
    add({type, {columns, rows}, {}}, name, -width, width, seed);
  }

  gguf::Writer writer() const {
    gguf::Writer w;
    for (const auto& [key, v] : keys) w.add(key, v);
    for (const auto& [name, tensor] : tensors)
      w.add_tensor(name, tensor.type, tensor.shape, [&tensor](std::span<std::byte> out) {
        quant::quantize(tensor.type, tensor.values, out);
      });
    return w;
  }
  std::vector<std::byte> bytes() const {
    auto result = writer().to_bytes();
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
    return result.ok() ? std::move(*result) : std::vector<std::byte>{};
  }

 private:
  void add(TinyTensor tensor, const std::string& name, float low, float high, std::uint64_t seed) {
    std::size_t count = 1;
    for (const std::int64_t size : tensor.shape) count *= static_cast<std::size_t>(size);
    const std::uint64_t stream = seed * 1000 + tensors.size();
    for (std::size_t i = 0; i < count; ++i)
      tensor.values.push_back(low + (high - low) * static_cast<float>(counter_uniform(stream, i)));
    tensors[name] = std::move(tensor);
  }
};

inline TinyModel tiny_model(const TinyShape& s = {}) {
  TinyModel m;
  const auto u32 = [](std::int32_t n) { return value(static_cast<std::uint32_t>(n)); };
  m.keys = {{"general.architecture", value("llama")},
            {"llama.block_count", u32(s.layers)},
            {"llama.context_length", u32(s.context)},
            {"llama.embedding_length", u32(s.hidden)},
            {"llama.feed_forward_length", u32(s.feed_forward)},
            {"llama.attention.head_count", u32(s.heads)},
            {"llama.attention.head_count_kv", u32(s.kv_heads)},
            {"llama.attention.key_length", u32(s.head_size)},
            {"llama.attention.value_length", u32(s.head_size)},
            {"llama.attention.layer_norm_rms_epsilon", value(1e-5f)},
            {"llama.rope.freq_base", value(10000.0f)},
            {"llama.rope.dimension_count", u32(s.head_size)},
            {"llama.vocab_size", u32(s.vocab)}};
  const std::int64_t q = s.heads * s.head_size, kv = s.kv_heads * s.head_size;
  m.add_matrix("token_embd.weight", s.type, s.vocab, s.hidden, s.seed);
  if (s.rope_freqs) m.add_vector("rope_freqs.weight", s.head_size / 2, 1.0f, 8.0f, s.seed);
  for (std::int32_t layer = 0; layer < s.layers; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    m.add_vector(block + "attn_norm.weight", s.hidden, 0.5f, 1.5f, s.seed);
    m.add_matrix(block + "attn_q.weight", s.type, q, s.hidden, s.seed);
    m.add_matrix(block + "attn_k.weight", s.type, kv, s.hidden, s.seed);
    m.add_matrix(block + "attn_v.weight", s.type, kv, s.hidden, s.seed);
    m.add_matrix(block + "attn_output.weight", s.type, s.hidden, q, s.seed);
    m.add_vector(block + "ffn_norm.weight", s.hidden, 0.5f, 1.5f, s.seed);
    m.add_matrix(block + "ffn_gate.weight", s.type, s.feed_forward, s.hidden, s.seed);
    m.add_matrix(block + "ffn_up.weight", s.type, s.feed_forward, s.hidden, s.seed);
    m.add_matrix(block + "ffn_down.weight", s.type, s.hidden, s.feed_forward, s.seed);
  }
  m.add_vector("output_norm.weight", s.hidden, 0.5f, 1.5f, s.seed);
  if (!s.tied) m.add_matrix("output.weight", s.type, s.vocab, s.hidden, s.seed);
  return m;
}

/// A model file that goes away with the test.
class TempModel {
 public:
  explicit TempModel(const TinyModel& model) : path_(unique_path()) {
    const Status status = model.writer().write(path_);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  }
  explicit TempModel(const TinyShape& shape = {}) : TempModel(tiny_model(shape)) {}
  TempModel(const TempModel&) = delete;
  TempModel& operator=(const TempModel&) = delete;
  ~TempModel() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  static std::string unique_path() {
    static int count = 0;
    return ::testing::TempDir() + "herd_" + std::to_string(getpid()) + "_" +
           std::to_string(count++) + ".gguf";
  }
  std::string path_;
};

/// Loads, or ends the test with the error's message.
inline LlamaModel load(const std::string& path, const ModelOptions& options) {
  auto model = LlamaModel::from_gguf(path, options);
  if (!model.ok()) throw std::runtime_error(model.error().message);
  return std::move(*model);
}

/// Why a device cannot run here, or nothing.
inline std::optional<std::string> missing(DeviceType device) {
  const auto backend = make_backend({device, 1, Isa::automatic});
  if (backend.ok()) return {};
  EXPECT_EQ(backend.error().code, Code::unsupported) << backend.error().message;
  return backend.error().message;
}

inline std::string data_file(const std::string& name) {
  return std::string(HERD_TEST_DATA) + "/" + name;
}

/// Whole numbers from a seed, for property tests.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : seed_(seed) {}
  /// In [low, high].
  std::int32_t roll(std::int32_t low, std::int32_t high) {
    const double u = counter_uniform(seed_, position_++);
    return low + static_cast<std::int32_t>(u * (high - low + 1));
  }
  std::vector<TokenId> ids(std::int32_t count, std::int32_t vocab) {
    std::vector<TokenId> result;
    for (std::int32_t i = 0; i < count; ++i) result.push_back(roll(0, vocab - 1));
    return result;
  }

 private:
  std::uint64_t seed_, position_ = 0;
};

}  // namespace herd::test
