// The routes: a request's head and body in, a reply or a running job out. No socket in here.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "access.h"
#include "herd/chat.h"
#include "herd/engine.h"
#include "herd/vocabulary.h"
#include "job.h"
#include "limits.h"
#include "metrics.h"

namespace server {

struct ServiceOptions {
  Limits limits;
  Access access;
  std::string model_id;
  std::size_t max_queue = 256;  // as the engine's: more sequences than that no request may have
  std::optional<herd::ChatTemplate> chat_template;
  std::string template_text;         // of it
  std::string bos_token, eos_token;  // for the template
  std::string no_template;           // else: why there is none
};

/// Thread-safe. Must outlive its jobs.
class Service {
 public:
  Service(herd::Engine& engine, herd::Vocabulary vocabulary, ServiceOptions options);

  using Wake = std::function<void()>;
  using Handled = std::variant<HttpReply, std::unique_ptr<Job>>;

  /// Whether a request may go on to its body; else the reply.
  std::optional<HttpReply> check_head(const HttpHead& head);
  /// Whether handle() takes microseconds: no text to encode, nothing to run.
  bool is_light(const HttpHead& head) const;
  /// REQUIRES: check_head(head) let it pass. `wake` is called when a job's poll() has something to
  /// do, from any thread.
  Handled handle(const HttpHead& head, std::string_view body, Wake wake);
  /// Counts a refusal.
  HttpReply refuse(ApiError error);

  /// From now on requests that would run are refused, /ready says 503.
  void drain() { draining_ = true; }
  bool draining() const { return draining_; }
  std::size_t jobs() const { return jobs_; }  // that have not ended

  void tick(Clock::time_point now);  // twice a second or so, for rates
  void set_connections(std::size_t n) { connections_ = n; }
  Metrics& metrics() { return metrics_; }
  const Limits& limits() const { return options_.limits; }

 private:
  struct Call {
    const HttpHead& head;
    std::string_view body;
    Wake wake;
    Clock::time_point arrived;
    std::uint64_t key;  // number of the API key
  };
  struct Route {
    std::string_view method, path;
    Handled (Service::*handle)(Call&);
    bool open;   // needs no key
    bool light;  // see is_light
    bool runs;   // needs the engine: refused while draining or overloaded
  };
  static const std::vector<Route>& routes();
  static const Route* find_route(const HttpHead& head);
  std::optional<ApiError> check_route(const HttpHead& head) const;
  std::optional<ApiError> check_runs(std::uint64_t key);

  Handled page(Call&);
  Handled health(Call&);
  Handled ready(Call&);
  Handled metrics_text(Call&);
  Handled stats(Call&);
  Handled models(Call&);
  Handled tokenize(Call&);
  Handled detokenize(Call&);
  Handled tokenizer_info(Call&);
  Handled completions(Call&);
  Handled chat(Call&);

  using Prompts = std::vector<Response::PromptText>;
  Handled run(Call& call, Endpoint endpoint);
  std::optional<ApiError> check_model(const std::string& model) const;
  ApiResult<Prompts> make_prompts(const ApiRequest& request) const;
  ApiResult<Response::PromptText> encode(const Prompt& prompt) const;
  ApiResult<Response::PromptText> render(const ApiRequest& request) const;
  std::optional<ApiError> check_size(const ApiRequest& request, const Prompts& prompts) const;
  ApiResult<std::vector<herd::Answer>> submit(const Call& call, const ApiRequest& request,
                                              const Prompts& prompts,
                                              const std::shared_ptr<Waker>& waker);
  std::shared_ptr<void> lease(std::uint64_t key);
  int retry_after() const;

  herd::Engine& engine_;
  const herd::Vocabulary vocabulary_;
  const ServiceOptions options_;
  const std::int64_t created_;
  Metrics metrics_;
  std::atomic<bool> draining_{false};
  std::atomic<std::size_t> connections_{0}, jobs_{0};
  mutable std::mutex mutex_;  // of what follows
  std::map<std::uint64_t, int> running_by_key_;
  RateMeter answer_rate_, row_rate_, finish_rate_;
};

/// Whether the engine gets on: 200, or 503 with why.
HttpReply health_reply(const herd::EngineStats& stats, double limit_seconds);

}  // namespace server
