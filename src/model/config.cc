// Hyper-parameters: one table of limits, every key checked against it before anything uses it.
#include <fmt/format.h>

#include <cmath>

#include "gguf/reader.h"
#include "model/model.h"

namespace herd {
namespace {

struct Limit {
  std::string_view key;  // after "llama."
  std::int64_t min, max;
};
constexpr Limit kBlockCount = {"block_count", 1, 512};
constexpr Limit kContext = {"context_length", 1, 1 << 24};
constexpr Limit kEmbedding = {"embedding_length", 1, 1 << 17};
constexpr Limit kFeedForward = {"feed_forward_length", 1, 1 << 19};
constexpr Limit kHeads = {"attention.head_count", 1, 1024};
constexpr Limit kKvHeads = {"attention.head_count_kv", 1, 1024};
constexpr Limit kKeyLength = {"attention.key_length", 2, 512};
constexpr Limit kValueLength = {"attention.value_length", 2, 512};
constexpr Limit kRopeSize = {"rope.dimension_count", 2, 512};
constexpr Limit kVocabSize = {"vocab_size", 1, 1 << 21};

/// Reads keys of one architecture, remembering the first thing that was wrong.
class ConfigReader {
 public:
  ConfigReader(const gguf::File& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  std::string key(std::string_view name) const { return prefix_ + std::string(name); }
  bool has(std::string_view name) const { return file_.find(key(name)) != nullptr; }

  std::int32_t required(const Limit& limit) {
    const auto value = file_.get_int(key(limit.key), limit.min, limit.max);
    if (!value.ok()) fail(value.error());
    return value.ok() ? static_cast<std::int32_t>(*value) : 0;
  }
  std::int32_t optional(const Limit& limit, std::int32_t otherwise) {
    return has(limit.key) ? required(limit) : otherwise;
  }
  /// A real number in (min, max].
  float real(std::string_view name, double min, double max) {
    const auto value = file_.get_real(key(name));
    if (!value.ok()) {
      fail(value.error());
      return 0;
    }
    if (!(*value > min && *value <= max))
      fail({Code::out_of_range,
            fmt::format("{} = {}: must be above {} and at most {}", key(name), *value, min, max)});
    return static_cast<float>(*value);
  }
  float real(std::string_view name, double min, double max, float otherwise) {
    return has(name) ? real(name, min, max) : otherwise;
  }
  std::string text(std::string_view name, std::string_view otherwise) {
    if (!has(name)) return std::string(otherwise);
    const auto value = file_.get_string(key(name));
    if (!value.ok()) fail(value.error());
    return value.ok() ? std::string(*value) : std::string();
  }
  void fail(Error error) {
    if (status_.ok()) status_ = Status(std::move(error));
  }
  const Status& status() const { return status_; }

 private:
  const gguf::File& file_;
  std::string prefix_;
  Status status_;
};

/// Keys that change results, with the one value herd computes: ignoring others would be wrong.
constexpr std::string_view kOnlyZero[] = {"expert_count", "attention.sliding_window"};
struct OnlyValue {
  std::string_view key;
  double value;
};
constexpr OnlyValue kOnlyReal[] = {{"rope.scaling.attn_factor", 1}, {"attention.scale", 0},
                                   {"attention.clamp_kqv", 0},      {"attn_logit_softcapping", 0},
                                   {"final_logit_softcapping", 0},  {"logit_scale", 1},
                                   {"residual_scale", 1},           {"embedding_scale", 1}};

void refuse_unsupported(ConfigReader& reader, const gguf::File& file) {
  for (const std::string_view name : kOnlyZero) {
    if (!reader.has(name)) continue;
    const auto value = file.get_int(reader.key(name), 0, std::int64_t{1} << 40);
    if (!value.ok()) {
      reader.fail(value.error());
    } else if (*value > 0) {
      reader.fail({Code::unsupported,
                   fmt::format("{} = {}: only 0 is supported", reader.key(name), *value)});
    }
  }
  for (const auto& [name, only] : kOnlyReal) {
    if (!reader.has(name)) continue;
    const auto value = file.get_real(reader.key(name));
    if (!value.ok()) {
      reader.fail(value.error());
    } else if (*value != only) {
      reader.fail({Code::unsupported,
                   fmt::format("{} = {}: only {} is supported", reader.key(name), *value, only)});
    }
  }
}

/// Linear scaling is written as rope.scaling.factor, in older files as rope.scale_linear; a file
/// that gives either without naming a type means linear.
float read_rope_scale(ConfigReader& reader) {
  const std::string type = reader.text("rope.scaling.type", "linear");
  if (type == "none") return 1.0f;
  if (type != "linear")
    reader.fail(
        {Code::unsupported, fmt::format("{} = {}: supported are \"none\" and \"linear\"",
                                        reader.key("rope.scaling.type"), gguf::quoted(type))});
  const bool current = reader.has("rope.scaling.factor");
  return reader.real(current ? "rope.scaling.factor" : "rope.scale_linear", 0, 1e6, 1.0f);
}

void read_rope(ConfigReader& reader, ModelConfig& c) {
  c.rope_size = reader.optional(kRopeSize, c.head_size);
  if (c.rope_size > c.head_size || c.rope_size % 2 != 0)
    reader.fail(
        {Code::out_of_range, fmt::format("{} = {}: must be even and at most the head size, {}",
                                         reader.key(kRopeSize.key), c.rope_size, c.head_size)});
  c.rope_base = reader.real("rope.freq_base", 0, 1e12, 10000.0f);
  c.rope_scale = read_rope_scale(reader);
}

void read_heads(ConfigReader& reader, ModelConfig& c) {
  c.heads = reader.required(kHeads);
  c.kv_heads = reader.optional(kKvHeads, c.heads);
  if (!reader.status().ok()) return;
  if (c.heads % c.kv_heads != 0)
    reader.fail(
        {Code::out_of_range, fmt::format("{} = {}: must divide {} = {}", reader.key(kKvHeads.key),
                                         c.kv_heads, reader.key(kHeads.key), c.heads)});
  if (!reader.has(kKeyLength.key) &&
      (c.hidden % c.heads != 0 || c.hidden / c.heads < kKeyLength.min ||
       c.hidden / c.heads > kKeyLength.max))
    reader.fail({Code::out_of_range,
                 fmt::format("{} = {}: {} = {} over it must be a whole number in {}..{}",
                             reader.key(kHeads.key), c.heads, reader.key(kEmbedding.key), c.hidden,
                             kKeyLength.min, kKeyLength.max)});
  c.head_size = reader.optional(kKeyLength, c.hidden / c.heads);
  const std::int32_t value_size = reader.optional(kValueLength, c.head_size);
  if (value_size != c.head_size)
    reader.fail(
        {Code::unsupported, fmt::format("{} = {}: must equal the key length, {}",
                                        reader.key(kValueLength.key), value_size, c.head_size)});
}

/// Rows of the embedding table are the truth; llama.vocab_size must agree where present.
void read_vocab(ConfigReader& reader, const gguf::File& file, ModelConfig& c) {
  const gguf::TensorInfo* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr)
    return reader.fail(
        {Code::unsupported,
         "token_embd.weight: the file has no such tensor (a vocabulary-only file?)"});
  const std::int64_t rows = embedding->rows();
  if (rows > kVocabSize.max)
    return reader.fail({Code::out_of_range, fmt::format("token_embd.weight: {} rows, at most {}",
                                                        rows, kVocabSize.max)});
  c.vocab = reader.optional(kVocabSize, static_cast<std::int32_t>(rows));
  if (c.vocab != rows)
    reader.fail({Code::corrupt, fmt::format("{} = {}: token_embd.weight has {} rows",
                                            reader.key(kVocabSize.key), c.vocab, rows)});
}

}  // namespace

Result<ModelConfig> read_config(const gguf::File& file) {
  const auto architecture = file.get_string("general.architecture");
  if (!architecture.ok()) return architecture.error();
  if (*architecture != "llama")
    return Error{Code::unsupported, fmt::format("general.architecture = {}: supported is \"llama\"",
                                                gguf::quoted(*architecture))};
  ModelConfig c;
  c.architecture = *architecture;
  ConfigReader reader(file, c.architecture);
  refuse_unsupported(reader, file);
  read_vocab(reader, file, c);
  c.layers = reader.required(kBlockCount);
  c.context = reader.required(kContext);
  c.hidden = reader.required(kEmbedding);
  c.feed_forward = reader.required(kFeedForward);
  c.rms_epsilon = reader.real("attention.layer_norm_rms_epsilon", 0, 1);
  if (reader.status().ok()) read_heads(reader, c);
  if (reader.status().ok()) read_rope(reader, c);
  c.tied_output = file.find_tensor("output.weight") == nullptr;
  if (!reader.status().ok()) return reader.status().error();
  return c;
}

}  // namespace herd
