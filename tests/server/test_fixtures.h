// A service over a tiny model, and what its replies say.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>

#include "server/json.h"
#include "server/service.h"

namespace server::test {

inline std::string data_file(const std::string& name) {
  return std::string(HERD_TEST_DATA) + "/" + name;
}

/// tiny-mha has a SentencePiece vocabulary of 384 tokens and random weights.
inline std::unique_ptr<herd::Engine> tiny_engine(herd::EngineOptions options = {},
                                                 std::int32_t batch_size = 4) {
  herd::ModelOptions model_options;
  model_options.threads = 1;
  model_options.batch_size = batch_size;
  model_options.context = 512;
  auto model = herd::LlamaModel::from_gguf(data_file("tiny-mha-Q4_K_M.gguf"), model_options);
  if (!model.ok()) throw std::runtime_error(model.error().message);
  auto engine = herd::Engine::create(std::move(*model), std::move(options));
  if (!engine.ok()) throw std::runtime_error(engine.error().message);
  return std::move(*engine);
}

inline ServiceOptions service_options() {
  ServiceOptions options;
  options.model_id = "tiny";
  options.no_template = "none";
  return options;
}

inline constexpr const char* kTemplate =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]";

inline HttpHead head(std::string method, std::string path) {
  HttpHead h;
  h.method = std::move(method);
  h.path = std::move(path);
  h.host = "localhost:8080";
  return h;
}

/// What a client of the service sees of one request.
struct Seen {
  int status = 0;
  std::string body;  // or the stream
  Json json() const { return Json::parse(body); }
};

/// Waits for what wakes it.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    rang_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    rang_.wait(lock, [&] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable rang_;
  bool rung_ = false;
};

/// Runs a request to its end, as a session does.
inline Seen ask(Service& service, const HttpHead& h, const std::string& body = "") {
  if (const auto refused = service.check_head(h)) return {refused->status, refused->body};
  const auto bell = std::make_shared<Bell>();
  auto handled = service.handle(h, body, [bell] { bell->ring(); });
  if (const auto* reply = std::get_if<HttpReply>(&handled)) return {reply->status, reply->body};
  Job& job = *std::get<std::unique_ptr<Job>>(handled);
  Seen seen;
  for (;;) {
    Job::Output output = job.poll(Clock::now());
    seen.body += output.stream;
    if (output.reply) return {output.reply->status, output.reply->body};
    if (output.done) return {200, seen.body};
    bell->wait();
  }
}
inline Seen post(Service& service, const std::string& path, const OrderedJson& body) {
  return ask(service, head("POST", path), dump(body));
}
inline Seen get(Service& service, const std::string& path) {
  return ask(service, head("GET", path));
}

/// The events of a stream: JSON, or null for [DONE].
inline std::vector<Json> stream_events(const std::string& stream) {
  std::vector<Json> events;
  std::size_t at = 0;
  while (at < stream.size()) {
    const std::size_t end = stream.find("\n\n", at);
    EXPECT_NE(end, std::string::npos) << "an event that does not end";
    EXPECT_EQ(stream.substr(at, 6), "data: ");
    const std::string text = stream.substr(at + 6, end - at - 6);
    events.push_back(text == "[DONE]" ? Json() : Json::parse(text));
    at = end + 2;
  }
  return events;
}

}  // namespace server::test
