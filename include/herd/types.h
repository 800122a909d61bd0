// The vocabulary callers and the library share: plain data, no behaviour.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace herd {

using TokenId = std::int32_t;

/// Where the forward pass runs. `reference` is the plain-loop oracle the others are held against.
enum class DeviceType { cpu, reference, cuda, metal, metal_emulated };
std::string_view to_string(DeviceType device);

/// Which CPU kernel table to use. `automatic` takes the widest the machine has; every table gives
/// the same bits. Naming one the machine lacks is an error, never a fallback.
enum class Isa { automatic, scalar, avx2, avxvnni, avx512, neon, neondot };
inline constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avxvnni,
                                Isa::avx512, Isa::neon, Isa::neondot};
std::string_view to_string(Isa isa);

/// How keys and values are kept. `f16`: two bytes each; values as halves, keys as 16-bit integers
/// with one scale per head and position, because a few large key components would lose too much as
/// halves (docs/numerics.md). `f32`: as computed.
enum class KvType { f16, f32 };

enum class FinishReason {
  none,       // still running
  length,     // max_tokens or the context is full
  stop,       // a stop string or stop id matched, or the model ended the text
  error,      // this sequence failed (its message says why); the others go on
  cancelled,  // the caller stopped it
};
std::string_view to_string(FinishReason reason);

/// How the next token is chosen. Defaults are greedy. Validated before use.
struct SamplingParams {
  float temperature = 0.0f;         // 0: greedy; otherwise logits are divided by it
  int top_k = 0;                    // 0: off; else keep the k most likely
  float top_p = 1.0f;               // keep the smallest set whose probability reaches p
  float min_p = 0.0f;               // drop tokens below min_p times the likeliest
  float repetition_penalty = 1.0f;  // 1: off; applied to every id seen in prompt and answer
  float presence_penalty = 0.0f;    // subtracted once for every id the answer has used
  float frequency_penalty = 0.0f;   // subtracted per use in the answer
  std::uint64_t seed = 0;           // the draw at a position depends on (seed, position) only
  std::vector<std::pair<TokenId, float>> logit_bias;
};

/// A chosen token's log-probability under the unmodified distribution, with the likeliest others.
struct TokenLogprob {
  TokenId id = 0;
  float logprob = 0.0f;
  std::vector<std::pair<TokenId, float>> top;  // likeliest first, ties to the lower id
};

/// What the steps so far spent in one op of the forward pass.
struct OpTime {
  std::string op;
  std::uint64_t calls = 0;
  double seconds = 0;
};

/// Called with (done, total) while a model loads; from the loading thread only.
using ProgressFn = std::function<void(std::int64_t done, std::int64_t total)>;

}  // namespace herd
