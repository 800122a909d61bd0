#include "service.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "generation.h"
#include "page.h"

namespace server {
namespace {

HttpReply json_reply(const OrderedJson& json, int status = 200) {
  HttpReply reply;
  reply.status = status;
  reply.body = dump(json);
  return reply;
}

ApiError unavailable(std::string message, std::string code, std::string_view reason) {
  ApiError error;
  error.status = 503;
  error.message = std::move(message);
  error.code = std::move(code);
  error.reason = reason;
  return error;
}

std::uint64_t total(const std::array<std::uint64_t, 5>& counts) {
  std::uint64_t sum = 0;
  for (const std::uint64_t count : counts) sum += count;
  return sum;
}

}  // namespace

HttpReply health_reply(const herd::EngineStats& stats, double limit_seconds) {
  const bool well = stats.seconds_in_step <= limit_seconds;
  OrderedJson json = {{"status", well ? "ok" : "stalled"},
                      {"seconds_in_step", stats.seconds_in_step}};
  return json_reply(json, well ? 200 : 503);
}

Service::Service(herd::Engine& engine, herd::Vocabulary vocabulary, ServiceOptions options)
    : engine_(engine),
      vocabulary_(std::move(vocabulary)),
      options_(std::move(options)),
      created_(std::time(nullptr)) {}

// ---- routes ----

const std::vector<Service::Route>& Service::routes() {
  static const std::vector<Route> table = {
      // method, path, handler, open, light, runs
      {"GET", "/", &Service::page, true, true, false},
      {"GET", "/health", &Service::health, true, true, false},
      {"GET", "/ready", &Service::ready, true, true, false},
      {"GET", "/metrics", &Service::metrics_text, false, true, false},
      {"GET", "/stats", &Service::stats, false, true, false},
      {"GET", "/v1/models", &Service::models, false, true, false},
      {"POST", "/tokenize", &Service::tokenize, false, false, false},
      {"GET", "/tokenizer_info", &Service::tokenizer_info, false, true, false},
      {"POST", "/detokenize", &Service::detokenize, false, false, false},
      {"POST", "/v1/completions", &Service::completions, false, false, true},
      {"POST", "/v1/chat/completions", &Service::chat, false, false, true},
  };
  return table;
}

const Service::Route* Service::find_route(const HttpHead& head) {
  for (const Route& route : routes())
    if (route.path == head.path && route.method == head.method) return &route;
  return nullptr;
}

std::optional<ApiError> Service::check_route(const HttpHead& head) const {
  if (find_route(head) != nullptr) return {};
  ApiError error;
  for (const Route& route : routes())
    if (route.path == head.path) error.allow = route.method;
  error.status = error.allow.empty() ? 404 : 405;
  error.message = error.allow.empty() ? "there is nothing at " + shown(head.path)
                                      : fmt::format("{} takes {}", head.path, error.allow);
  error.code = error.allow.empty() ? "not_found" : "method_not_allowed";
  error.reason = error.code == "not_found" ? "not_found" : "bad_request";
  return error;
}

std::optional<HttpReply> Service::check_head(const HttpHead& head) {
  if (auto error = check_host(head, options_.access)) return refuse(*std::move(error));
  if (auto error = check_origin(head)) return refuse(*std::move(error));
  if (auto error = check_route(head)) return refuse(*std::move(error));
  const Route& route = *find_route(head);
  metrics_.request(route.path);
  if (route.open) return {};
  const auto key = find_key(head.authorization, options_.access);
  if (!key) {
    ApiError error;
    error.status = 401;
    error.message = "the API key is missing or wrong";
    error.code = "invalid_api_key";
    error.reason = "key";
    return refuse(std::move(error));
  }
  if (!route.runs) return {};
  if (auto error = check_runs(*key)) return refuse(*std::move(error));
  return {};
}

/// Whether there is any point in reading more of a request that would run.
std::optional<ApiError> Service::check_runs(std::uint64_t key) {
  if (draining_) return unavailable("the server is shutting down", "shutting_down", "draining");
  if (engine_.stats().waiting >= static_cast<std::int64_t>(options_.max_queue)) {
    ApiError error =
        unavailable("too many requests wait; try again later", "overloaded", "queue_full");
    error.retry_after = retry_after();
    return error;
  }
  const std::lock_guard lock(mutex_);
  if (options_.limits.key_requests == 0 || running_by_key_[key] < options_.limits.key_requests)
    return {};
  ApiError error = unavailable(fmt::format("{} requests of this API key run or wait, the limit",
                                           options_.limits.key_requests),
                               "rate_limit_exceeded", "key_limit");
  error.status = 429;
  error.retry_after = 1;
  return error;
}

bool Service::is_light(const HttpHead& head) const {
  const Route* route = find_route(head);
  return route != nullptr && route->light;
}

Service::Handled Service::handle(const HttpHead& head, std::string_view body, Wake wake) {
  Call call{head, body, std::move(wake), Clock::now(),
            find_key(head.authorization, options_.access).value_or(0)};
  try {
    return (this->*find_route(head)->handle)(call);
  } catch (const std::exception& e) {  // no memory
    return refuse(from_error({herd::Code::internal, e.what()}));
  }
}

HttpReply Service::refuse(ApiError error) {
  metrics_.reject(error.reason);
  if (error.status == 503 && error.code == "overloaded") error.retry_after = retry_after();
  return error_reply(error);
}

// ---- what is answered at once ----

Service::Handled Service::page(Call&) {
  HttpReply reply;
  reply.content_type = "text/html; charset=utf-8";
  reply.body = kPage;
  reply.headers.emplace_back("Content-Security-Policy", kPagePolicy);
  return reply;
}

Service::Handled Service::health(Call&) {
  return health_reply(engine_.stats(), options_.limits.health_seconds);
}

Service::Handled Service::ready(Call&) {
  if (draining_) return json_reply({{"status", "draining"}}, 503);
  return json_reply({{"status", "ready"}});
}

Service::Handled Service::metrics_text(Call&) {
  HttpReply reply;
  reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
  reply.body = metrics_.prometheus(engine_.stats(), {connections_, draining_});
  return reply;
}

Service::Handled Service::stats(Call&) {
  const herd::EngineStats s = engine_.stats();
  const herd::ModelInfo info = engine_.info();
  double answer_rate = 0, row_rate = 0;
  {
    const std::lock_guard lock(mutex_);
    answer_rate = answer_rate_.rate();
    row_rate = row_rate_.rate();
  }
  const bool busy = s.running > 0 || s.waiting > 0;
  return json_reply({{"model", options_.model_id},
                     {"backend", info.backend},
                     {"context", engine_.context()},
                     {"running", s.running},
                     {"waiting", s.waiting},
                     {"rows", busy ? s.step_rows : 0},
                     {"pages",
                      {{"total", s.pages},
                       {"free", s.pages_free},
                       {"used", s.pages_used},
                       {"cached", s.pages_cached}}},
                     {"answer_tokens_per_second", answer_rate},
                     {"rows_per_second", row_rate},
                     {"answer_tokens", s.answer_tokens},
                     {"prompt_tokens", s.prompt_tokens},
                     {"cached_tokens", s.cached_tokens},
                     {"preemptions", s.preemptions},
                     {"connections", connections_.load()},
                     {"draining", draining_.load()}});
}

Service::Handled Service::models(Call&) {
  OrderedJson model = {{"id", options_.model_id},
                       {"object", "model"},
                       {"created", created_},
                       {"owned_by", "herd"},
                       {"max_model_len", engine_.context()}};
  return json_reply({{"object", "list"}, {"data", OrderedJson::array({std::move(model)})}});
}

Service::Handled Service::tokenize(Call& call) {
  const auto parsed = parse_tokenize(call.body, options_.limits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);
  const auto& request = std::get<TokenizeRequest>(parsed);
  const auto ids = vocabulary_.encode(request.text, request.add_special && vocabulary_.adds_bos());
  return json_reply({{"tokens", ids}, {"count", ids.size()}, {"max_model_len", engine_.context()}});
}

/// As vLLM has it: with this and the two routes beside it lm-evaluation-harness needs no tokeniser
/// of its own.
Service::Handled Service::tokenizer_info(Call&) {
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? OrderedJson() : OrderedJson(text);
  };
  return json_reply({{"bos_token", text_or_null(options_.bos_token)},
                     {"eos_token", text_or_null(options_.eos_token)},
                     {"pad_token", nullptr},
                     {"add_bos_token", vocabulary_.adds_bos()},
                     {"chat_template", text_or_null(options_.template_text)},
                     {"model_max_length", engine_.context()}});
}

Service::Handled Service::detokenize(Call& call) {
  const auto parsed = parse_detokenize(call.body, options_.limits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);
  const auto text = vocabulary_.decode(std::get<std::vector<herd::TokenId>>(parsed), true);
  if (!text.ok()) return refuse(bad_field("tokens", text.error().message));
  return json_reply({{"prompt", *text}});
}

// ---- what runs ----

Service::Handled Service::completions(Call& call) {
  return run(call, Endpoint::completions);
}
Service::Handled Service::chat(Call& call) {
  return run(call, Endpoint::chat);
}

Service::Handled Service::run(Call& call, Endpoint endpoint) {
  if (auto error = check_runs(call.key)) return refuse(*std::move(error));
  const auto parsed = parse_request(endpoint, call.body, options_.limits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);
  const auto& request = std::get<ApiRequest>(parsed);
  if (auto error = check_model(request.model)) return refuse(*std::move(error));
  auto made = make_prompts(request);
  if (const auto* error = std::get_if<ApiError>(&made)) return refuse(*error);
  auto& prompts = std::get<Prompts>(made);
  if (auto error = check_size(request, prompts)) return refuse(*std::move(error));
  const auto waker = std::make_shared<Waker>(call.wake);
  auto held = lease(call.key);
  auto answers = submit(call, request, prompts, waker);
  if (const auto* error = std::get_if<ApiError>(&answers)) return refuse(*error);
  return std::make_unique<Job>(
      std::move(std::get<std::vector<herd::Answer>>(answers)),
      Response(request, new_envelope(endpoint, options_.model_id), std::move(prompts), vocabulary_),
      request.stream, waker, metrics_, call.arrived, std::move(held));
}

std::optional<ApiError> Service::check_model(const std::string& model) const {
  if (model.empty() || model == options_.model_id) return {};
  ApiError error = bad_field("model", fmt::format("The model `{}` does not exist; this server has "
                                                  "`{}`",
                                                  shown(model), options_.model_id));
  error.status = 404;
  error.code = "model_not_found";
  error.reason = "model";
  return error;
}

ApiResult<Service::Prompts> Service::make_prompts(const ApiRequest& request) const {
  Prompts prompts;
  if (request.endpoint == Endpoint::chat) {
    auto one = render(request);
    if (const auto* error = std::get_if<ApiError>(&one)) return *error;
    prompts.push_back(std::move(std::get<Response::PromptText>(one)));
  }
  for (const Prompt& prompt : request.prompts) {
    auto one = encode(prompt);
    if (const auto* error = std::get_if<ApiError>(&one)) return *error;
    prompts.push_back(std::move(std::get<Response::PromptText>(one)));
  }
  for (const Response::PromptText& prompt : prompts)
    if (std::ssize(prompt.ids) > engine_.context()) {
      ApiError error = bad_field(
          request.endpoint == Endpoint::chat ? "messages" : "prompt",
          fmt::format("This model's maximum context length is {} tokens. However, your prompt has "
                      "{} tokens.",
                      engine_.context(), prompt.ids.size()));
      error.code = "context_length_exceeded";
      return error;
    }
  return prompts;
}

ApiResult<Response::PromptText> Service::encode(const Prompt& prompt) const {
  Response::PromptText out;
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    out.text = *text;
    out.bos_added = vocabulary_.adds_bos();
    out.ids = vocabulary_.encode(*text, out.bos_added);
    if (out.ids.empty()) return bad_field("prompt", "the prompt has no tokens");
    return out;
  }
  out.ids = std::get<std::vector<herd::TokenId>>(prompt);
  auto text = vocabulary_.decode(out.ids, true);
  if (!text.ok()) return bad_field("prompt", text.error().message);
  out.text = std::move(*text);
  return out;
}

ApiResult<Response::PromptText> Service::render(const ApiRequest& request) const {
  if (!options_.chat_template)
    return bad_field("messages", "this model cannot chat: " + options_.no_template);
  const std::string variables = fmt::format(
      "{{\"messages\":{},\"add_generation_prompt\":true,\"bos_token\":{},\"eos_token\":{}}}",
      request.messages, dump(options_.bos_token), dump(options_.eos_token));
  auto text = options_.chat_template->render(variables);
  if (!text.ok()) return bad_field("messages", "chat template: " + text.error().message);
  Response::PromptText out;
  out.ids = vocabulary_.encode(*text, false);  // the template says where BOS is
  out.text = std::move(*text);
  if (out.ids.empty()) return bad_field("messages", "the rendered prompt has no tokens");
  return out;
}

std::optional<ApiError> Service::check_size(const ApiRequest& request,
                                            const Prompts& prompts) const {
  const std::size_t sequences = prompts.size() * static_cast<std::size_t>(request.choices());
  if (sequences > options_.max_queue)
    return bad_field("n", fmt::format("{} prompts with {} answers each are more than the queue "
                                      "holds, {}",
                                      prompts.size(), request.choices(), options_.max_queue));
  double bytes = 0;
  for (const Response::PromptText& prompt : prompts)
    bytes += longest_answer_bytes(request, prompt.ids.size(), engine_.context());
  if (bytes <= static_cast<double>(options_.limits.answer_bytes)) return {};
  return bad_field("logprobs", fmt::format("the answer could have {:.0f} bytes, the limit is {}; "
                                           "ask for fewer prompts, tokens or logprobs",
                                           bytes, options_.limits.answer_bytes));
}

ApiResult<std::vector<herd::Answer>> Service::submit(const Call& call, const ApiRequest& request,
                                                     const Prompts& prompts,
                                                     const std::shared_ptr<Waker>& waker) {
  std::vector<herd::Answer> answers;
  for (const Response::PromptText& prompt : prompts)
    for (int choice = 0; choice < request.choices(); ++choice) {
      auto one = to_generate_request(request, prompt.ids, choice, engine_.context());
      herd::SubmitOptions how;
      how.cache_partition = call.key;
      how.on_events = [waker] { waker->notify(); };
      auto answer = engine_.submit(std::move(one), std::move(how));
      if (!answer.ok()) return from_error(answer.error());
      answers.push_back(std::move(*answer));
    }
  return answers;
}

/// Counts a job while it is held.
std::shared_ptr<void> Service::lease(std::uint64_t key) {
  {
    const std::lock_guard lock(mutex_);
    ++running_by_key_[key];
    ++jobs_;
  }
  return {static_cast<void*>(this), [key](void* self) {
            Service& service = *static_cast<Service*>(self);
            const std::lock_guard lock(service.mutex_);
            --service.running_by_key_[key];
            --service.jobs_;
          }};
}

// ---- rates ----

void Service::tick(Clock::time_point now) {
  const herd::EngineStats s = engine_.stats();
  const std::lock_guard lock(mutex_);
  answer_rate_.add(now, static_cast<double>(s.answer_tokens));
  row_rate_.add(now, static_cast<double>(s.rows));
  finish_rate_.add(now, static_cast<double>(total(s.finished)));
}

/// When the queue will have gone, at the rate at which requests now end.
int Service::retry_after() const {
  const double waiting = engine_.stats().waiting;
  const std::lock_guard lock(mutex_);
  const double rate = finish_rate_.rate();
  return static_cast<int>(std::clamp(std::ceil(waiting / std::max(rate, 0.1)), 1.0, 60.0));
}

}  // namespace server
