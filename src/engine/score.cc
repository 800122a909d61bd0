// Scoring: prompts that ask for no answer, stepped by a Runner a few batches at a time.
#include "herd/score.h"

#include <algorithm>

#include "engine/runner.h"

namespace herd {

bool ScoreResult::all_greedy() const {
  return std::ranges::all_of(greedy, [](std::uint8_t g) { return g != 0; });
}

ScoreRequest encode_score(const Vocabulary& vocabulary, std::string_view context,
                          std::string_view continuation) {
  const bool bos = vocabulary.adds_bos();
  const auto before = vocabulary.encode(context, bos);
  ScoreRequest request;
  request.ids = vocabulary.encode(std::string(context).append(continuation), bos);
  const auto border = std::ranges::mismatch(request.ids, before).in1;
  request.first = static_cast<std::int32_t>(border - request.ids.begin());
  return request;
}

namespace {

class Scoring {
 public:
  Scoring(LlamaModel::Impl& model, std::span<const ScoreRequest> requests,
          const ScoreOptions& options)
      : model_(model),
        requests_(requests),
        options_(options),
        results_(requests.size()),
        runner_(model, model.model->limits().max_rows) {}

  std::vector<ScoreResult> run() {
    model_.clear();
    const Runner::OnEvent on_event = [this](sched::RequestId id, Event&& event) {
      take(id, std::move(event));
    };
    const std::uint64_t before = model_.rows;
    for (;;) {
      if (options_.cancelled && options_.cancelled()) cancel();
      start_some();
      if (runner_.idle()) return std::move(results_);
      runner_.step(on_event);
      if (options_.on_progress)
        options_.on_progress(static_cast<std::int64_t>(model_.rows - before));
    }
  }

 private:
  struct Live {
    sched::RequestId id;
    std::size_t request;
  };

  /// Keeps a few batches waiting: enough that places never stay empty.
  void start_some() {
    const auto most = 4 * static_cast<std::size_t>(model_.active);
    for (; next_ < requests_.size() && live_.size() < most; ++next_)
      if (Status status = start(next_); !status.ok()) fail(next_, status.error().message);
  }

  Status start(std::size_t i) {
    GenerateRequest request;
    request.ids = requests_[i].ids;
    request.max_tokens = 0;
    request.logprobs = 1;
    request.prompt_logprobs = true;
    request.prompt_logprobs_from = requests_[i].first;
    if (request.ids.empty()) return {Code::invalid_argument, "there are no tokens to score"};
    if (request.prompt_logprobs_from == std::ssize(request.ids)) {
      finish(i);  // nothing is scored
      return {};
    }
    auto prompt = prepare(model_, request);
    if (!prompt.ok()) return prompt.status();
    const auto id = runner_.add(std::move(request), std::move(*prompt), 0, ReplyText::at_the_end);
    if (!id.ok()) return id.status();
    live_.push_back({*id, i});
    return {};
  }

  void take(sched::RequestId id, Event&& event) {
    const auto at = std::ranges::lower_bound(live_, id, {}, &Live::id);
    ScoreResult& result = results_[at->request];
    for (const TokenLogprob& each : event.prompt_logprobs) {
      result.logprobs.push_back(each.logprob);
      result.greedy.push_back(each.top.front().first == each.id ? 1 : 0);
      result.sum += static_cast<double>(each.logprob);
    }
    if (event.finish_reason == FinishReason::none) return;
    const std::size_t i = at->request;
    live_.erase(at);
    if (event.finish_reason == FinishReason::error)
      fail(i, std::move(event.error.message));
    else
      finish(i);
  }

  void finish(std::size_t i) {
    if (options_.on_result) options_.on_result(i, results_[i]);
  }
  void fail(std::size_t i, std::string why) {
    results_[i] = {};
    results_[i].error = std::move(why);
    finish(i);
  }
  void cancel() {
    for (const Live& l : live_) {
      (void)runner_.end(l.id, FinishReason::cancelled, {});
      fail(l.request, "cancelled");
    }
    live_.clear();
    for (; next_ < requests_.size(); ++next_) fail(next_, "cancelled");
  }

  LlamaModel::Impl& model_;
  std::span<const ScoreRequest> requests_;
  const ScoreOptions& options_;
  std::vector<ScoreResult> results_;
  Runner runner_;
  std::vector<Live> live_;  // ids ascend
  std::size_t next_ = 0;    // the first that has not started
};

}  // namespace

Result<std::vector<ScoreResult>> score(LlamaModel& model, std::span<const ScoreRequest> requests,
                                       const ScoreOptions& options) {
  return Scoring(model.impl(), requests, options).run();
}

}  // namespace herd
