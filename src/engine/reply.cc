#include "engine/reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace herd {
namespace {

constexpr std::int32_t kMostTokens = 1 << 24;

Status check_parameters(const LlamaModel::Impl& model, const GenerateRequest& r) {
  const auto range = [](std::string_view name, std::int64_t value, std::int64_t min,
                        std::int64_t max) {
    if (value >= min && value <= max) return Status();
    return Status(Code::out_of_range,
                  fmt::format("{} {}: must be {} to {}", name, value, min, max));
  };
  if (Status status = validate(r.sampling, model.vocab()); !status.ok()) return status;
  if (Status status = validate_stops(r.stop); !status.ok()) return status;
  if (Status status = range("max_tokens", r.max_tokens, 0, kMostTokens); !status.ok())
    return status;
  if (Status status = range("logprobs", r.logprobs, -1, model.vocab()); !status.ok()) return status;
  for (const TokenId id : r.stop_ids)
    if (Status status = range("stop id", id, 0, model.vocab() - 1); !status.ok()) return status;
  const bool needs_text = !r.stop.empty() || r.format.kind != AnswerFormat::Kind::text;
  if (model.tokenizer == nullptr && needs_text) return model.tokenizer_error;
  return {};
}

Result<std::vector<TokenId>> prepare_prompt(const LlamaModel::Impl& model,
                                            GenerateRequest& request) {
  std::vector<TokenId> ids = std::move(request.ids);
  if (ids.empty()) {
    if (model.tokenizer == nullptr) return model.tokenizer_error;
    ids = model.tokenizer->encode(request.prompt,
                                  {.add_bos = model.tokenizer->adds_bos(), .parse_special = true});
  }
  if (ids.empty()) return Error{Code::invalid_argument, "the prompt has no tokens"};
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= model.vocab())
      return Error{Code::invalid_argument,
                   fmt::format("prompt token {} is id {}, the vocabulary has 0 to {}", i, ids[i],
                               model.vocab() - 1)};
  if (request.prompt_logprobs &&
      (request.prompt_logprobs_from < 1 || request.prompt_logprobs_from > std::ssize(ids)))
    return Error{Code::out_of_range, fmt::format("prompt_logprobs_from {}: must be 1 to {}",
                                                 request.prompt_logprobs_from, ids.size())};
  const std::int64_t room = std::int64_t{model.context()} - std::ssize(ids);
  if (room < 0)
    return Error{Code::out_of_range, fmt::format("the prompt has {} tokens, the context holds {}",
                                                 ids.size(), model.context())};
  request.max_tokens = static_cast<std::int32_t>(
      std::min<std::int64_t>(request.max_tokens, room + 1));  // the last is not fed
  return ids;
}

}  // namespace

Result<Prepared> prepare(const LlamaModel::Impl& model, GenerateRequest& request) {
  if (Status status = check_parameters(model, request); !status.ok()) return status.error();
  auto prompt = prepare_prompt(model, request);
  if (!prompt.ok()) return prompt.error();
  if (request.format.kind == AnswerFormat::Kind::text) return Prepared{*std::move(prompt), nullptr};
  auto grammar = model.formats.grammar(request.format, *model.tokenizer, model.vocab());
  if (!grammar.ok()) return grammar.error();
  return Prepared{*std::move(prompt), *std::move(grammar)};
}

Reply::Reply(const LlamaModel::Impl& model, GenerateRequest request, Prepared prepared,
             ReplyText text)
    : tokenizer_(model.tokenizer),
      request_(std::move(request)),
      ids_(std::move(prepared.prompt)),
      stops_(request_.stop),
      text_at_end_(text == ReplyText::at_the_end && request_.stop.empty()) {
  event_.usage.prompt_tokens = static_cast<std::int32_t>(ids_.size());
  ids_.reserve(ids_.size() + static_cast<std::size_t>(request_.max_tokens));
  if (tokenizer_ != nullptr) detokenizer_.emplace(tokenizer_, false, false);
  if (prepared.grammar != nullptr) constraint_.emplace(std::move(prepared.grammar));
}

// ---- one step ----

bool Reply::needs_logits(const sched::Share& share) const {
  if (share.n_logits == 0) return false;
  return adjusts(request_.sampling) || request_.logprobs >= 0 || request_.on_logits ||
         share.n_logits > 1 || !share.chooses || constraint_;
}

SamplingRow Reply::sampling_row(std::int64_t position) const {
  if (adjusts(request_.sampling) || constraint_) return {};
  const SamplingParams& p = request_.sampling;
  return {p.temperature, p.top_p, p.min_p, p.top_k, p.seed, position};
}

sched::Outcome Reply::take_logits(const sched::Share& share, std::span<const float> logits,
                                  Sampler& sampler) {
  const auto n = static_cast<std::size_t>(share.n_logits);
  const std::size_t vocab = logits.size() / n, prompt_rows = share.chooses ? n - 1 : n;
  const auto first = static_cast<std::size_t>(share.position + share.n_rows) - n;
  for (std::size_t i = 0; request_.on_logits && i < n; ++i)
    request_.on_logits(static_cast<std::int32_t>(first + i), logits.subspan(i * vocab, vocab));
  for (std::size_t i = 0; i < prompt_rows; ++i)
    if (!note_prompt(first + i, logits.subspan(i * vocab, vocab), sampler))
      return fail(fmt::format("the logits after prompt token {} are not finite", first + i));
  if (!share.chooses) return {};
  const auto last = logits.last(vocab);
  std::span<const std::uint64_t> allowed;
  if (constraint_) {
    const auto mask = constraint_->allowed(!request_.ignore_end);
    if (!mask.ok()) return fail(mask.error());
    allowed = *mask;
  }
  const auto history = std::span<const TokenId>(ids_);
  const auto sample = sampler.sample(last, request_.sampling,
                                     {history.first(prompt_size()), history.subspan(prompt_size())},
                                     std::ssize(ids_), false, allowed);
  if (!sample.ok()) return fail(sample.error().message);
  if (request_.logprobs >= 0) event_.logprob = sampler.logprob(last, sample->id, request_.logprobs);
  return take_id(sample->id);
}

/// Notes what the logits after prompt token `at` say of the next one. False if they are not finite.
bool Reply::note_prompt(std::size_t at, std::span<const float> logits, Sampler& sampler) {
  const bool wanted = request_.prompt_logprobs && at + 1 < prompt_size();
  TokenLogprob next = sampler.logprob(logits, wanted ? ids_[at + 1] : 0,
                                      wanted ? std::max(0, request_.logprobs) : 0);
  if (std::isnan(next.logprob)) return false;
  if (wanted) event_.prompt_logprobs.push_back(std::move(next));
  return true;
}

sched::Outcome Reply::take_id(TokenId id) {
  if (id < 0) return fail(fmt::format("the logits after token {} are not finite", ids_.size() - 1));
  if (constraint_)
    if (Status status = constraint_->take(id); !status.ok()) return fail(status.error());
  ids_.push_back(id);
  event_.id = id;
  if (!text_at_end_) event_.text += text_of(id);
  ++event_.usage.answer_tokens;
  return {id, ends(id) ? FinishReason::stop : FinishReason::none};
}

/// A model may have more ids than its vocabulary has tokens (padding): those have no text.
std::string Reply::text_of(TokenId id) {
  if (tokenizer_ == nullptr || id >= tokenizer_->vocab_size()) return {};
  return stops_.push(detokenizer_->push(id));
}

bool Reply::ends(TokenId id) const {
  if (stops_.matched() || (constraint_ && constraint_->ended())) return true;
  if (std::ranges::find(request_.stop_ids, id) != request_.stop_ids.end()) return true;
  return !request_.ignore_end && tokenizer_ != nullptr && tokenizer_->ends_text(id);
}

sched::Outcome Reply::fail(Error error) {
  event_.error = std::move(error);
  return {-1, FinishReason::error};
}

// ---- events ----

Event Reply::make_event(FinishReason end) {
  if (end != FinishReason::none && detokenizer_) {
    for (std::size_t i = prompt_size(); text_at_end_ && i < ids_.size(); ++i)
      event_.text += text_of(ids_[i]);
    event_.text += stops_.push(detokenizer_->flush());
    event_.text += stops_.finish();
  }
  event_.finish_reason = end;
  const Usage usage = event_.usage;
  Event made = std::exchange(event_, {});
  event_.usage = usage;
  return made;
}

Event Reply::make_end(FinishReason end, Error why) {
  event_.error = std::move(why);
  return make_event(end);
}

}  // namespace herd
