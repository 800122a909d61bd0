// Many prompts, one ragged batch: places in the batch are refilled as answers end.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "engine/impl.h"
#include "sample/sampler.h"
#include "sample/stop.h"

namespace herd {
namespace {

constexpr std::int32_t kMostTokens = 1 << 24;

/// One request on its way: first its prompt is fed, then its own last token, step by step.
struct Running {
  std::size_t request = 0;
  std::int32_t place = 0;
  std::int32_t pages = 0;  // set aside for it: a running request never lacks one
  std::int32_t most = 0;   // answer tokens it may have
  std::size_t fed = 0;     // prompt tokens fed
  std::optional<Detokenizer> detokenizer;
  StopMatcher stops;
  // Where this step's logits are for it.
  std::int32_t first_logit = 0, n_logits = 0;
  // Where a device chooses its next token: that row of the last step's choices, or -1.
  std::int32_t awaited = -1;
};

/// A request's share of a step whose choices a device makes, as it was when the step began.
struct OpenRow {
  std::size_t request = 0;
  std::int32_t first_logit = 0, n_logits = 0;
  std::size_t fed = 0;  // prompt tokens
};

class Generation {
 public:
  Generation(LlamaModel::Impl& impl, std::span<const GenerateRequest> requests,
             const GenerateOptions& options)
      : impl_(impl),
        requests_(requests),
        options_(options),
        results_(requests.size()),
        sampler_(impl.vocab()),
        taken_(static_cast<std::size_t>(impl.active), false),
        device_chooses_(impl.model->backend().samples_on_device()) {
    running_.reserve(static_cast<std::size_t>(impl.active));
    open_.reserve(static_cast<std::size_t>(impl.active));
    newest_.reserve(static_cast<std::size_t>(impl.active));
  }

  Result<std::vector<GenerateResult>> run() {
    impl_.clear();
    for (;;) {
      if (options_.cancelled && options_.cancelled()) cancel();
      admit();
      if (running_.empty() && next_ == requests_.size()) break;
      if (running_.empty()) continue;
      if (Status status = step(); !status.ok()) {
        drop_open();
        impl_.clear();
        return status.error();
      }
    }
    drop_open();
    impl_.clear();
    return std::move(results_);
  }

 private:
  // ---- admission: first come, first served ----

  void admit() {
    while (next_ < requests_.size()) {
      const auto place = std::find(taken_.begin(), taken_.end(), false);
      if (place == taken_.end()) return;
      if (results_[next_].prompt_ids.empty()) {
        if (Status status = prepare(next_); !status.ok()) {
          fail(next_++, status.error().message);
          continue;
        }
      }
      const std::int32_t most = most_tokens(next_), pages = pages_for(next_, most);
      if (pages > impl_.pool.total()) {
        fail(next_++, fmt::format("{} KV pages of {} tokens needed, the pool has {}", pages,
                                  impl_.pool.page_size(), impl_.pool.total()));
        continue;
      }
      if (reserved_ + pages > impl_.pool.total()) return;
      start(next_++, static_cast<std::int32_t>(place - taken_.begin()), most, pages);
    }
  }

  /// Checks a request and fills its prompt ids.
  Status prepare(std::size_t i) {
    const GenerateRequest& r = requests_[i];
    if (Status status = validate(r.sampling, impl_.vocab()); !status.ok()) return status;
    if (Status status = validate_stops(r.stop); !status.ok()) return status;
    if (r.max_tokens < 0 || r.max_tokens > kMostTokens)
      return {Code::out_of_range,
              fmt::format("max_tokens {}: must be 0 to {}", r.max_tokens, kMostTokens)};
    if (r.logprobs < -1 || r.logprobs > impl_.vocab())
      return {Code::out_of_range,
              fmt::format("logprobs {}: must be -1 to {}", r.logprobs, impl_.vocab())};
    if (Status status = check_stop_ids(r.stop_ids); !status.ok()) return status;
    if (impl_.tokenizer == nullptr && !r.stop.empty()) return impl_.tokenizer_error;
    std::vector<TokenId> ids = r.ids;
    if (ids.empty()) {
      if (impl_.tokenizer == nullptr) return impl_.tokenizer_error;
      ids = impl_.tokenizer->encode(
          r.prompt, {.add_bos = impl_.tokenizer->adds_bos(), .parse_special = true});
    }
    if (ids.empty()) return {Code::invalid_argument, "the prompt has no tokens"};
    if (Status status = impl_.check_ids(i, ids); !status.ok()) return status;
    if (std::ssize(ids) > impl_.context())
      return {Code::out_of_range, fmt::format("the prompt has {} tokens, the context holds {}",
                                              ids.size(), impl_.context())};
    results_[i].prompt_ids = std::move(ids);
    return {};
  }

  Status check_stop_ids(std::span<const TokenId> ids) const {
    for (const TokenId id : ids)
      if (id < 0 || id >= impl_.vocab())
        return {Code::out_of_range,
                fmt::format("stop id {}: the vocabulary has 0 to {}", id, impl_.vocab() - 1)};
    return {};
  }
  std::int32_t most_tokens(std::size_t i) const {
    const auto prompt = static_cast<std::int32_t>(results_[i].prompt_ids.size());
    return std::min(requests_[i].max_tokens, impl_.context() - prompt + 1);  // the last is not fed
  }
  std::int32_t pages_for(std::size_t i, std::int32_t most) const {
    return impl_.pool.pages_for(std::ssize(results_[i].prompt_ids) + std::max(0, most - 1));
  }

  void start(std::size_t i, std::int32_t place, std::int32_t most, std::int32_t pages) {
    GenerateResult& result = results_[i];
    if (most == 0 && !requests_[i].prompt_logprobs) {
      result.finish_reason = FinishReason::length;
      return emit(i, -1, "", FinishReason::length);
    }
    Running r;
    r.request = i, r.place = place, r.pages = pages, r.most = most;
    if (impl_.tokenizer != nullptr) r.detokenizer.emplace(impl_.tokenizer, false, false);
    r.stops = StopMatcher(requests_[i].stop);
    result.ids.reserve(static_cast<std::size_t>(most));
    result.text.reserve(static_cast<std::size_t>(most) * 8);
    if (requests_[i].logprobs >= 0) result.logprobs.reserve(static_cast<std::size_t>(most));
    taken_[static_cast<std::size_t>(place)] = true;
    reserved_ += pages;
    running_.push_back(std::move(r));
  }

  // ---- one step ----

  Status step() {
    impl_.start_step();
    for (Running& r : running_) r.n_logits = 0;
    for (Running& r : running_)  // answers first: a running stream waits for no prompt
      if (prompt_left(r) == 0)
        if (Status status = feed_answer(r); !status.ok()) return status;
    for (Running& r : running_)
      if (prompt_left(r) > 0)
        if (Status status = feed_prompt(r); !status.ok()) return status;
    if (device_chooses_) return device_step();
    const auto logits = impl_.run_step();
    if (!logits.ok()) return logits.status();
    for (Running& r : running_)
      if (r.n_logits > 0) take_logits(r, *logits);
    std::erase_if(running_, [&](const Running& r) { return release_if_done(r); });
    return {};
  }

  std::size_t prompt_left(const Running& r) const {
    return results_[r.request].prompt_ids.size() - r.fed;
  }

  Status feed_answer(Running& r) {
    const GenerateResult& result = results_[r.request];
    if (r.awaited < 0) return feed(r, std::span(&result.ids.back(), 1));
    if (std::ssize(result.ids) + 1 >= r.most) return {};  // the awaited one is the last
    const TokenId awaited = -1 - r.awaited;
    return feed(r, std::span(&awaited, 1));
  }

  // ---- steps whose choices a device makes: ids come back, and one step later if nobody minds ----

  /// Whether the host must see this request's logits.
  bool needs_logits(const Running& r) const {
    const GenerateRequest& request = requests_[r.request];
    return adjusts(request.sampling) || request.logprobs >= 0 ||
           (request.prompt_logprobs && results_[r.request].ids.empty());
  }

  Status device_step() {
    newest_.clear();
    const bool any = impl_.batch.n_rows() > 0;
    if (any) {
      add_choices();
      impl_.enqueue_step();
    }
    if (Status status = collect(); !status.ok()) return status;
    std::swap(open_, newest_);
    for (const OpenRow& row : open_)  // those that go on: where their next token is chosen
      if (Running* r = running(row.request)) r->awaited = row.first_logit + row.n_logits - 1;
    const bool at_once = std::any_of(running_.begin(), running_.end(),
                                     [&](const Running& r) { return needs_logits(r); });
    return at_once ? collect() : Status();
  }

  /// Fills Batch::sampling, and newest_ with who has logits in this step.
  void add_choices() {
    Batch& batch = impl_.batch;
    batch.sampling.resize(batch.logit_rows.size());
    for (const Running& r : running_) {
      if (r.n_logits == 0) continue;
      newest_.push_back({r.request, r.first_logit, r.n_logits, r.fed});
      const SamplingParams& p = requests_[r.request].sampling;
      const GenerateResult& result = results_[r.request];
      const auto position =
          std::ssize(result.prompt_ids) + std::ssize(result.ids) + (r.awaited >= 0 ? 1 : 0);
      if (!adjusts(p))
        batch.sampling[static_cast<std::size_t>(r.first_logit + r.n_logits - 1)] = {
            p.temperature, p.top_p, p.min_p, p.top_k, p.seed, position};
    }
  }

  /// Waits for the open step's ids and gives them out.
  Status collect() {
    if (open_.empty()) return {};
    const auto ids = impl_.model->backend().sampled();
    if (!ids.ok()) return ids.status();
    for (const OpenRow& row : open_) {
      Running* r = running(row.request);
      if (r == nullptr) continue;  // it ended while this step was on its way
      r->awaited = -1;
      if (needs_logits(*r)) {
        const auto first = static_cast<std::size_t>(row.first_logit);
        const auto logits = impl_.read_logits(first, static_cast<std::size_t>(row.n_logits));
        if (!logits.ok()) return logits.status();
        r->first_logit = 0, r->n_logits = row.n_logits;
        take_logits(*r, *logits);
      } else if (row.fed == results_[row.request].prompt_ids.size()) {
        take_id(*r, (*ids)[static_cast<std::size_t>(row.first_logit + row.n_logits - 1)]);
      }
    }
    open_.clear();
    std::erase_if(running_, [&](const Running& r) { return release_if_done(r); });
    return {};
  }

  void drop_open() {
    if (!open_.empty()) static_cast<void>(impl_.model->backend().sampled());
    open_.clear();
  }

  Running* running(std::size_t request) {
    for (Running& r : running_)
      if (r.request == request) return &r;
    return nullptr;
  }

  Status feed_prompt(Running& r) {
    const bool all = requests_[r.request].prompt_logprobs;
    const auto room = static_cast<std::size_t>(
        all ? std::min(impl_.rows_left(), impl_.logits_left()) : impl_.rows_left());
    std::size_t n = std::min(prompt_left(r), room);
    if (n == prompt_left(r) && impl_.logits_left() == 0) n = 0;  // its last row needs a logits row
    if (n == 0) return {};
    const auto ids = std::span(results_[r.request].prompt_ids).subspan(r.fed, n);
    r.fed += n;
    return feed(r, ids);
  }

  Status feed(Running& r, std::span<const TokenId> ids) {
    const bool all = requests_[r.request].prompt_logprobs && results_[r.request].ids.empty();
    r.first_logit = static_cast<std::int32_t>(impl_.batch.logit_rows.size());
    Status status = impl_.add(r.place, ids,
                              all                   ? WantLogits::all
                              : prompt_left(r) == 0 ? WantLogits::last
                                                    : WantLogits::none);
    r.n_logits = static_cast<std::int32_t>(impl_.batch.logit_rows.size()) - r.first_logit;
    return status;
  }

  void take_logits(Running& r, std::span<const float> logits) {
    const auto vocab = static_cast<std::size_t>(impl_.vocab());
    const auto row = [&](std::int32_t i) {
      return logits.subspan(static_cast<std::size_t>(r.first_logit + i) * vocab, vocab);
    };
    if (results_[r.request].ids.empty() && requests_[r.request].prompt_logprobs) {
      const std::size_t first = r.fed - static_cast<std::size_t>(r.n_logits);
      for (std::int32_t i = 0; i < r.n_logits; ++i)
        note_prompt_logprob(r, first + static_cast<std::size_t>(i) + 1, row(i));
    }
    if (prompt_left(r) > 0) return;
    if (results_[r.request].finish_reason != FinishReason::none) return;
    if (r.most == 0) return finish(r, FinishReason::length, -1, "");
    choose(r, row(r.n_logits - 1));
  }

  void note_prompt_logprob(Running& r, std::size_t at, std::span<const float> logits) {
    GenerateResult& result = results_[r.request];
    if (at >= result.prompt_ids.size() || result.finish_reason != FinishReason::none) return;
    const float logprob = sampler_.logprob(logits, result.prompt_ids[at], 0).logprob;
    result.prompt_logprobs.push_back(logprob);
    if (std::isnan(logprob)) {
      result.error = fmt::format("the logits after prompt token {} are not finite", at - 1);
      finish(r, FinishReason::error, -1, "");
    }
  }

  // ---- one token ----

  void choose(Running& r, std::span<const float> logits) {
    const GenerateRequest& request = requests_[r.request];
    GenerateResult& result = results_[r.request];
    const auto position = std::ssize(result.prompt_ids) + std::ssize(result.ids);
    const auto sample =
        sampler_.sample(logits, request.sampling, {result.prompt_ids, result.ids}, position, false);
    if (!sample.ok()) {
      result.error = sample.error().message;
      return finish(r, FinishReason::error, -1, "");
    }
    if (request.logprobs >= 0)
      result.logprobs.push_back(sampler_.logprob(logits, sample->id, request.logprobs));
    take_id(r, sample->id);
  }

  void take_id(Running& r, TokenId id) {
    GenerateResult& result = results_[r.request];
    if (id < 0) {
      result.error = fmt::format("the logits after token {} are not finite",
                                 std::ssize(result.prompt_ids) + std::ssize(result.ids) - 1);
      return finish(r, FinishReason::error, -1, "");
    }
    result.ids.push_back(id);
    const std::string text = follows_text(r) ? push_text(r, id) : std::string();
    result.text += text;
    const FinishReason reason = ends(r, id);
    if (reason != FinishReason::none)
      finish(r, reason, id, text);
    else
      emit(r.request, id, text, FinishReason::none);
  }

  /// A model may have more ids than its vocabulary has tokens (padding): those have no text.
  bool has_text(TokenId id) const {
    return impl_.tokenizer != nullptr && id < impl_.tokenizer->vocab_size();
  }

  /// Text is made token by token for those who look at it so; else at the end, all at once.
  bool follows_text(const Running& r) const {
    return options_.on_event || !requests_[r.request].stop.empty();
  }
  std::string push_text(Running& r, TokenId id) {
    return has_text(id) ? r.stops.push(r.detokenizer->push(id)) : std::string();
  }

  FinishReason ends(const Running& r, TokenId id) const {
    const GenerateRequest& request = requests_[r.request];
    const bool stop_id =
        std::find(request.stop_ids.begin(), request.stop_ids.end(), id) != request.stop_ids.end();
    const bool model_end =
        !request.ignore_end && impl_.tokenizer != nullptr && impl_.tokenizer->ends_text(id);
    if (r.stops.matched() || stop_id || model_end) return FinishReason::stop;
    if (std::ssize(results_[r.request].ids) >= r.most) return FinishReason::length;
    return FinishReason::none;
  }

  // ---- endings ----

  /// `text` is what this step's token added; what was held back joins it.
  void finish(Running& r, FinishReason reason, TokenId id, std::string text) {
    GenerateResult& result = results_[r.request];
    if (r.detokenizer) {
      if (!follows_text(r))
        for (const TokenId each : result.ids) result.text += push_text(r, each);
      std::string rest = r.stops.push(r.detokenizer->flush());
      rest += r.stops.finish();
      result.text += rest;
      text += rest;
    }
    result.finish_reason = reason;
    emit(r.request, id, text, reason);
  }

  bool release_if_done(const Running& r) {
    if (results_[r.request].finish_reason == FinishReason::none) return false;
    impl_.tables[static_cast<std::size_t>(r.place)].clear(impl_.pool);
    taken_[static_cast<std::size_t>(r.place)] = false;
    reserved_ -= r.pages;
    return true;
  }

  void fail(std::size_t i, std::string message) {
    results_[i].error = std::move(message);
    results_[i].finish_reason = FinishReason::error;
    emit(i, -1, "", FinishReason::error);
  }

  void cancel() {
    for (Running& r : running_) finish(r, FinishReason::cancelled, -1, "");
    std::erase_if(running_, [&](const Running& r) { return release_if_done(r); });
    for (; next_ < requests_.size(); ++next_) {
      results_[next_].finish_reason = FinishReason::cancelled;
      emit(next_, -1, "", FinishReason::cancelled);
    }
  }

  void emit(std::size_t request, TokenId id, std::string_view text, FinishReason reason) {
    if (options_.on_event) options_.on_event({request, id, text, reason});
  }

  LlamaModel::Impl& impl_;
  std::span<const GenerateRequest> requests_;
  const GenerateOptions& options_;
  std::vector<GenerateResult> results_;
  Sampler sampler_;
  std::vector<Running> running_;
  std::vector<bool> taken_;  // places
  bool device_chooses_;
  std::vector<OpenRow> open_, newest_;  // of the step whose ids are not read yet; of this one
  std::size_t next_ = 0;                // the first request not yet admitted
  std::int32_t reserved_ = 0;           // pages set aside for running requests
};

}  // namespace

Result<std::vector<GenerateResult>> generate(LlamaModel& model,
                                             std::span<const GenerateRequest> requests,
                                             const GenerateOptions& options) {
  if (requests.empty())
    return Error{Code::invalid_argument, "no prompts given: at least 1 is needed"};
  return Generation(model.impl(), requests, options).run();
}

}  // namespace herd
