// A Llama-family model from a GGUF file, run for many sequences at once.
//
//   auto model = herd::LlamaModel::from_gguf("model.gguf", {.batch_size = 8});
//   auto answers = herd::generate(*model, requests, {});
//
// The result for a sequence never depends on what else is in the batch: within one backend it is
// bitwise the same alone, batched, chunked, and after others were freed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "herd/status.h"
#include "herd/types.h"

namespace herd {

class Model;
class Tokenizer;

struct ModelOptions {
  DeviceType device = DeviceType::cpu;
  int threads = 0;  // 0: as many as the machine has cores
  Isa isa = Isa::automatic;
  std::int32_t batch_size = 16;  // sequences that run at once
  std::int32_t context = 0;      // longest sequence; 0: what the model was trained for
  std::int64_t kv_tokens = 0;    // room for tokens of all sequences; 0: batch_size * context,
                                 // at most a quarter of the machine's memory
  std::int32_t max_rows = 0;     // rows in one step: prompts are fed in chunks of at most this;
                                 // 0: 512, or 2048 on a device with memory of its own
  KvType kv_type = KvType::f16;
  bool profile = false;  // metal and metal-emulated: op_times(); each op then runs alone, so slower
  ProgressFn progress;
};

/// What a model needs before anything is loaded, in bytes.
struct MemoryNeed {
  std::int64_t weights = 0;
  std::int64_t kv = 0;
  std::int64_t kv_per_token = 0;
  std::int64_t activations = 0;
  std::int64_t scratch = 0;
  std::int64_t runtime = 0;  // program, tokeniser and metadata
  std::int64_t total = 0;
  std::int64_t available = 0;  // what the device has free now
  std::int32_t context = 0;    // the sizes the figures are for
  std::int64_t kv_tokens = 0;
  std::int32_t batch_size = 0;
};

/// Work done so far; take differences.
struct ModelCounters {
  std::uint64_t weight_bytes = 0;  // streamed from memory by matrix products
  std::uint64_t matmul_flops = 0;
  std::uint64_t steps = 0;
  std::uint64_t rows = 0;
};

struct ModelInfo {
  std::string architecture, name, backend;  // backend: "cpu avx512, 2 threads"
  std::int32_t layers, hidden, heads, kv_heads, head_size, vocab, context;
  std::int64_t weight_bytes;
};

/// One loaded model with a KV cache for `batch_size` sequences. Movable. One caller at a time.
class LlamaModel {
 public:
  static Result<LlamaModel> from_gguf(const std::string& path, ModelOptions options = {});
  static Result<LlamaModel> from_gguf_with_backend(const std::string& path, DeviceType device);
  /// Memory need, without loading a weight.
  static Result<MemoryNeed> plan(const std::string& path, const ModelOptions& options = {});

  LlamaModel(LlamaModel&&) noexcept;
  LlamaModel& operator=(LlamaModel&&) noexcept;
  ~LlamaModel();

  // ---- the guide's batch calls. Sequence i of a call continues sequence i of the last call ----

  /// Feeds new tokens to each sequence (ragged; a sequence's list may be empty to leave it out) and
  /// returns the logits [vocab] after its last token, in order; an empty list gives an empty row.
  /// Errors: more sequences than batch_size (both numbers), ids outside the vocabulary, a sequence
  /// longer than the context, no room in the KV cache. On error nothing changed.
  Result<std::vector<std::vector<float>>> forward_batch(std::span<const std::vector<TokenId>> ids);
  /// The same from given positions: sequence i is first cut back to start[i] tokens.
  /// Errors also: start[i] beyond what is cached.
  Result<std::vector<std::vector<float>>> forward_batch_with_position(
      std::span<const std::vector<TokenId>> ids, std::span<const std::int32_t> start);
  /// Feeds next[i] to sequence i, then `steps` - 1 times what was likeliest after it (ties to the
  /// lower id): the `steps` tokens chosen for each. Logits stay on the device. Errors: as
  /// forward_batch; internal if logits are not finite. On error the batch is as it was.
  Result<std::vector<std::vector<TokenId>>> continue_greedy(std::span<const TokenId> next,
                                                            std::int32_t steps);
  /// Logits after every token: on_row(sequence, token index, logits [vocab]), tokens of a sequence
  /// in order. Sequences start empty and are freed at the end; chunked by max_rows.
  Status forward_all(std::span<const std::vector<TokenId>> ids,
                     const std::function<void(std::size_t sequence, std::size_t token,
                                              std::span<const float> logits)>& on_row);

  /// Sequences per call from now on; clears all. Error: more than the model was loaded for.
  Status set_batch_size(std::int32_t sequences);
  std::int32_t batch_size() const;
  /// Forgets every cached token, or those of one sequence.
  void clear_batch();
  Status clear_sequence(std::int32_t sequence);
  /// Tokens cached for each sequence of the batch.
  std::vector<std::int32_t> cached_tokens() const;
  /// Page accounting is whole: no page lost, none owned twice.
  Status check_integrity() const;

  // ---- text ----
  Result<std::vector<TokenId>> encode(std::string_view text, bool add_bos) const;
  Result<std::string> decode(std::span<const TokenId> ids, bool special = false) const;
  const std::shared_ptr<const Tokenizer>& tokenizer() const;

  ModelInfo info() const;
  ModelCounters counters() const;
  /// With ModelOptions::profile: the device's time by op, costliest first. Otherwise empty.
  std::vector<OpTime> op_times() const;

  struct Impl;
  Impl& impl() { return *impl_; }  // for the library's own rooms

 private:
  explicit LlamaModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// ---- generation: many prompts, one ragged batch ----

/// What an answer must be. Every token that would break it is left out before the choice, so the
/// answer keeps to it whatever the model prefers; it is whole unless max_tokens or a stop string
/// cuts it. docs/json_schema.md: what is understood of JSON Schema, and which JSON is written.
struct AnswerFormat {
  enum class Kind { text, json_object, json_schema };
  Kind kind = Kind::text;
  std::string schema;  // of json_schema: the schema as JSON
};

struct GenerateRequest {
  std::string prompt;        // used when ids is empty
  std::vector<TokenId> ids;  // used as they are
  std::int32_t max_tokens = 128;
  SamplingParams sampling;
  std::vector<std::string> stop;  // text that ends the answer; not part of it
  std::vector<TokenId> stop_ids;  // besides the model's own end tokens
  bool ignore_end = false;        // go on past the model's end token
  int logprobs = -1;              // -1: none; n: the chosen token's and the n likeliest
  bool prompt_logprobs = false;   // also of each prompt token from prompt_logprobs_from on; what
                                  // stands before may then come from the cache
  std::int32_t prompt_logprobs_from = 1;  // 1: all that have something before them
  AnswerFormat format;  // errors in it name the place and the keyword: invalid_argument,
                        // unsupported, out_of_range; resource_exhausted: too many others
  /// Sees the logits [vocab] that follow the token at `position`: those each token of the answer is
  /// chosen from, and with prompt_logprobs those of the prompt. Called by the thread that runs the
  /// model, positions ascending; must be quick.
  std::function<void(std::int32_t position, std::span<const float> logits)> on_logits = {};
};

struct GenerateResult {
  std::vector<TokenId> prompt_ids;
  std::vector<TokenId> ids;  // includes the end token if one was chosen
  std::string text;          // of ids, without control tokens and without a stop string
  FinishReason finish_reason = FinishReason::none;
  std::string error;                   // when finish_reason is error
  std::vector<TokenLogprob> logprobs;  // one per id, if asked
  std::vector<float> prompt_logprobs;  // one per prompt id from prompt_logprobs_from on, if asked
};

/// What happened to one request in one step; text is whole UTF-8.
struct GenerateEvent {
  std::size_t request = 0;
  TokenId id = -1;
  std::string_view text;
  FinishReason finish_reason = FinishReason::none;
  const TokenLogprob* logprob = nullptr;  // of id, if asked; like text, until the call returns
};

struct GenerateOptions {
  std::function<void(const GenerateEvent&)> on_event;
  std::function<bool()>
      cancelled;  // polled once a step; true ends all with FinishReason::cancelled
};

/// Runs every request, as many at once as the model's batch_size and KV room allow, the rest as
/// places come free. A bad request (too long, unknown id, bad parameters) ends alone with
/// FinishReason::error. Errors: an empty list (invalid_argument). Clears the model's batch.
Result<std::vector<GenerateResult>> generate(LlamaModel& model,
                                             std::span<const GenerateRequest> requests,
                                             const GenerateOptions& options = {});

}  // namespace herd
