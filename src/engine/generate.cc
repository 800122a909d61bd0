// Many prompts, one ragged batch: a Runner that is stepped until all have ended.
#include <algorithm>

#include "engine/runner.h"

namespace herd {
namespace {

class Generation {
 public:
  Generation(LlamaModel::Impl& model, std::span<const GenerateRequest> requests,
             const GenerateOptions& options)
      : model_(model),
        requests_(requests),
        options_(options),
        results_(requests.size()),
        runner_(model, model.model->limits().max_rows) {
    ids_.reserve(requests.size());
    indices_.reserve(requests.size());
  }

  std::vector<GenerateResult> run() {
    model_.clear();
    for (std::size_t i = 0; i < requests_.size(); ++i)
      if (Status status = start(i); !status.ok()) fail(i, status.error());
    const Runner::OnEvent on_event = [this](sched::RequestId id, Event&& event) {
      take(index(id), std::move(event));
    };
    for (;;) {
      if (options_.cancelled && options_.cancelled()) cancel();
      if (runner_.idle()) return std::move(results_);
      runner_.step(on_event);
    }
  }

 private:
  Status start(std::size_t i) {
    GenerateRequest request = requests_[i];
    auto prepared = prepare(model_, request);
    if (!prepared.ok()) return prepared.status();
    GenerateResult& result = results_[i];
    const auto most = static_cast<std::size_t>(request.max_tokens);
    result.prompt_ids = prepared->prompt;
    result.ids.reserve(most);
    result.text.reserve(most * 8);
    if (request.logprobs >= 0) result.logprobs.reserve(most);
    const auto text = options_.on_event ? ReplyText::as_it_comes : ReplyText::at_the_end;
    const auto id = runner_.add(std::move(request), *std::move(prepared), 0, text);
    if (!id.ok()) return id.status();
    ids_.push_back(*id);
    indices_.push_back(i);
    return {};
  }

  std::size_t index(sched::RequestId id) const {
    return indices_[static_cast<std::size_t>(std::ranges::lower_bound(ids_, id) - ids_.begin())];
  }

  void take(std::size_t i, Event&& event) {
    GenerateResult& result = results_[i];
    if (event.id >= 0) result.ids.push_back(event.id);
    const TokenLogprob* logprob = nullptr;
    if (event.logprob) logprob = &result.logprobs.emplace_back(std::move(*event.logprob));
    for (const TokenLogprob& each : event.prompt_logprobs)
      result.prompt_logprobs.push_back(each.logprob);
    result.text += event.text;
    result.finish_reason = event.finish_reason;
    if (event.finish_reason == FinishReason::error) result.error = std::move(event.error.message);
    if (options_.on_event)
      options_.on_event({i, event.id, event.text, event.finish_reason, logprob});
  }

  void fail(std::size_t i, const Error& error) {
    Event event;
    event.finish_reason = FinishReason::error;
    event.error = error;
    take(i, std::move(event));
  }

  void cancel() {
    for (std::size_t k = 0; k < ids_.size(); ++k)
      if (results_[indices_[k]].finish_reason == FinishReason::none)
        take(indices_[k], runner_.end(ids_[k], FinishReason::cancelled, {}));
  }

  LlamaModel::Impl& model_;
  std::span<const GenerateRequest> requests_;
  const GenerateOptions& options_;
  std::vector<GenerateResult> results_;
  Runner runner_;
  std::vector<sched::RequestId> ids_;  // of those that could start, ascending
  std::vector<std::size_t> indices_;   // [ids_.size()] which request each is
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
