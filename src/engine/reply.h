// One request's answer in the making: checked, then fed logits or ids, giving events.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/impl.h"
#include "herd/engine.h"
#include "sample/sampler.h"
#include "sample/stop.h"
#include "sched/scheduler.h"

namespace herd {

/// What a checked request needs to run.
struct Prepared {
  std::vector<TokenId> prompt;
  std::shared_ptr<constrain::Grammar> grammar;  // null: any text
};

/// Checks a request alone. Cuts max_tokens to what the context leaves. Errors: invalid_argument,
/// out_of_range, those of a tokeniser that cannot be used, those of its format. Any thread.
Result<Prepared> prepare(const LlamaModel::Impl& model, GenerateRequest& request);

/// When an answer's text is made: stop strings always need it at once.
enum class ReplyText { as_it_comes, at_the_end };

/// Thread-compatible. Allocates nothing for a token without log-probabilities and with short text.
class Reply {
 public:
  /// REQUIRES: `prepared` and `request` as prepare leaves them.
  Reply(const LlamaModel::Impl& model, GenerateRequest request, Prepared prepared, ReplyText text);

  /// Whether a share's logits must come to the host: the device cannot make what is asked of them.
  bool needs_logits(const sched::Share& share) const;
  /// How the device chooses the token at `position`. Of no meaning if needs_logits.
  SamplingRow sampling_row(std::int64_t position) const;
  /// What a share's logits [n_logits][vocab] mean; text and errors are kept for the event.
  sched::Outcome take_logits(const sched::Share& share, std::span<const float> logits,
                             Sampler& sampler);
  /// The same where the device chose; -1: the logits are not finite.
  sched::Outcome take_id(TokenId id);
  sched::Outcome fail(std::string message) {
    return fail(Error{Code::internal, std::move(message)});
  }
  sched::Outcome fail(Error error);
  /// What happened since the last event. `end` none: the answer goes on.
  Event make_event(FinishReason end);
  /// The event that ends it before its time.
  Event make_end(FinishReason end, Error why);
  Usage& usage() { return event_.usage; }

 private:
  std::size_t prompt_size() const { return static_cast<std::size_t>(event_.usage.prompt_tokens); }
  bool note_prompt(std::size_t at, std::span<const float> logits, Sampler& sampler);
  std::string text_of(TokenId id);
  bool ends(TokenId id) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  GenerateRequest request_;
  std::vector<TokenId> ids_;  // the prompt, then the answer
  std::optional<Detokenizer> detokenizer_;
  StopMatcher stops_;
  std::optional<constrain::Constraint> constraint_;
  bool text_at_end_;
  Event event_;  // the next one, being filled
};

}  // namespace herd
