// The routes over a tiny model, without sockets: what they answer, and that nothing is left behind.
#include "server/service.h"

#include "server/generation.h"
#include "test_fixtures.h"

namespace server::test {
namespace {

using namespace std::chrono_literals;

class ServiceTest : public ::testing::Test {
 protected:
  void start(ServiceOptions options = service_options(), herd::EngineOptions engine = {},
             std::int32_t batch_size = 4) {
    engine_ = tiny_engine(std::move(engine), batch_size);
    service_.emplace(*engine_, *engine_->vocabulary(), std::move(options));
  }
  void start_chat() {
    ServiceOptions options = service_options();
    options.chat_template = *herd::ChatTemplate::parse(kTemplate);
    start(std::move(options));
  }
  /// What the library answers when asked alone.
  herd::GenerateResult alone(herd::GenerateRequest request) {
    herd::ModelOptions options;
    options.threads = 1;
    options.context = 512;
    auto model = herd::LlamaModel::from_gguf(data_file("tiny-mha-Q4_K_M.gguf"), options);
    return (*herd::generate(*model, std::vector{std::move(request)}))[0];
  }
  /// Starts a request and leaves it running.
  std::unique_ptr<Job> run(const OrderedJson& body) {
    auto handled = service_->handle(head("POST", "/v1/completions"), dump(body), [] {});
    if (auto* job = std::get_if<std::unique_ptr<Job>>(&handled)) return std::move(*job);
    ADD_FAILURE() << std::get<HttpReply>(handled).body;
    return nullptr;
  }
  Seen complete(const OrderedJson& body) { return post(*service_, "/v1/completions", body); }

  std::unique_ptr<herd::Engine> engine_;
  std::optional<Service> service_;
};

TEST_F(ServiceTest, AnswersAsTheLibraryDoesAlone) {
  start();
  const std::vector<herd::TokenId> ids = {1, 40, 41, 42};
  for (const float temperature : {0.0f, 1.0f}) {
    herd::GenerateRequest request;
    request.ids = ids;
    request.max_tokens = 20;
    request.sampling.temperature = temperature;
    request.sampling.seed = 7;
    request.logprobs = 2;
    const auto expected = alone(request);
    const Seen seen = complete({{"prompt", ids},
                                {"max_tokens", 20},
                                {"temperature", temperature},
                                {"seed", 7},
                                {"logprobs", 2},
                                {"return_token_ids", true}});
    ASSERT_EQ(seen.status, 200) << seen.body;
    const Json choice = seen.json()["choices"][0];
    EXPECT_EQ(choice["token_ids"], Json(expected.ids));
    EXPECT_EQ(choice["text"], expected.text);
    EXPECT_EQ(choice["finish_reason"],
              expected.finish_reason == herd::FinishReason::stop ? "stop" : "length");
    for (std::size_t i = 0; i < expected.ids.size(); ++i)
      EXPECT_EQ(choice["logprobs"]["token_logprobs"][i].get<float>(), expected.logprobs[i].logprob);
    EXPECT_EQ(seen.json()["usage"]["completion_tokens"], expected.ids.size());
    EXPECT_EQ(seen.json()["usage"]["prompt_tokens"], 4);
  }
}

TEST_F(ServiceTest, AStreamSaysWhatAWholeAnswerSays) {
  start();
  OrderedJson body = {
      {"prompt", "Hello"}, {"max_tokens", 24}, {"temperature", 0.9},      {"seed", 3}, {"n", 2},
      {"logprobs", 1},     {"echo", true},     {"return_token_ids", true}};
  const Json whole = complete(body).json();
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const auto events = stream_events(complete(body).body);
  ASSERT_GE(events.size(), 4u);
  EXPECT_TRUE(events.back().is_null()) << "[DONE] ends it";
  EXPECT_EQ(events[events.size() - 2]["usage"]["completion_tokens"],
            whole["usage"]["completion_tokens"]);
  EXPECT_TRUE(events[events.size() - 2]["choices"].empty());
  for (std::size_t c = 0; c < 2; ++c) {
    std::string text;
    Json ids = Json::array(), logprobs = ids, offsets = ids, finish;
    for (std::size_t i = 0; i + 2 < events.size(); ++i) {
      EXPECT_TRUE(events[i]["usage"].is_null());
      const Json& choice = events[i]["choices"][0];
      if (choice["index"] != c) continue;
      EXPECT_TRUE(finish.is_null()) << "a chunk after the last";
      text += choice["text"].get<std::string>();
      for (const Json& id : choice["token_ids"]) ids.push_back(id);
      for (const Json& x : choice["logprobs"]["token_logprobs"]) logprobs.push_back(x);
      for (const Json& x : choice["logprobs"]["text_offset"]) offsets.push_back(x);
      finish = choice["finish_reason"];
    }
    const Json& expected = whole["choices"][c];
    EXPECT_EQ(text, expected["text"]);
    EXPECT_EQ(ids, expected["token_ids"]);
    EXPECT_EQ(logprobs, expected["logprobs"]["token_logprobs"]);
    EXPECT_EQ(offsets, expected["logprobs"]["text_offset"]);
    EXPECT_EQ(finish, expected["finish_reason"]);
  }
}

TEST_F(ServiceTest, EchoWithLogprobsScoresThePrompt) {
  start();
  const std::vector<herd::TokenId> ids = {1, 40, 41, 42, 43};
  herd::GenerateRequest request;
  request.ids = ids;
  request.max_tokens = 1;
  request.logprobs = 1;
  request.prompt_logprobs = true;
  const auto expected = alone(request);
  for (const int max_tokens : {0, 1}) {
    const Json choice = complete({{"prompt", ids},
                                  {"max_tokens", max_tokens},
                                  {"temperature", 0},
                                  {"logprobs", 1},
                                  {"echo", true}})
                            .json()["choices"][0];
    const Json& lp = choice["logprobs"];
    ASSERT_EQ(lp["tokens"].size(), ids.size() + static_cast<std::size_t>(max_tokens));
    EXPECT_TRUE(lp["token_logprobs"][0].is_null());
    EXPECT_TRUE(lp["top_logprobs"][0].is_null());
    for (std::size_t i = 1; i < ids.size(); ++i) {
      EXPECT_EQ(lp["token_logprobs"][i].get<float>(), expected.prompt_logprobs[i - 1]);
      float best = -1e9f;
      for (const Json& value : lp["top_logprobs"][i]) best = std::max(best, value.get<float>());
      EXPECT_GE(best, lp["token_logprobs"][i].get<float>()) << "the token itself is among them";
    }
  }
}

TEST_F(ServiceTest, ManyPromptsAndChoicesInOrder) {
  start();
  const Json seen = complete({{"prompt", {"one", "two"}},
                              {"n", 3},
                              {"max_tokens", 6},
                              {"seed", 5},
                              {"temperature", 1.5}})
                        .json();
  ASSERT_EQ(seen["choices"].size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(seen["choices"][i]["index"], i);
    const Json one = complete({{"prompt", i < 3 ? "one" : "two"},
                               {"max_tokens", 6},
                               {"seed", 5 + i % 3},
                               {"temperature", 1.5}})
                         .json();
    EXPECT_EQ(seen["choices"][i]["text"], one["choices"][0]["text"]) << i;
  }
}

TEST_F(ServiceTest, BestOfTakesTheLikeliest) {
  start();
  OrderedJson body = {{"prompt", "one"},  {"max_tokens", 8},    {"seed", 1},
                      {"temperature", 2}, {"ignore_eos", true}, {"logprobs", 0}};
  double best = -1e9;
  std::string expected;
  for (int i = 0; i < 4; ++i) {
    body["seed"] = 1 + i;
    const Json choice = complete(body).json()["choices"][0];
    double sum = 0;
    for (const Json& x : choice["logprobs"]["token_logprobs"]) sum += x.get<double>();
    if (sum > best) expected = choice["text"];
    best = std::max(best, sum);
  }
  body["seed"] = 1;
  body["best_of"] = 4;
  body.erase("logprobs");
  const Json seen = complete(body).json();
  ASSERT_EQ(seen["choices"].size(), 1u);
  EXPECT_EQ(seen["choices"][0]["text"], expected);
  EXPECT_TRUE(seen["choices"][0]["logprobs"].is_null()) << "nobody asked for them";
  EXPECT_EQ(seen["usage"]["completion_tokens"], 32);
}

TEST_F(ServiceTest, Chat) {
  start_chat();
  const OrderedJson messages = {{{"role", "user"}, {"content", "Hi"}}};
  const Seen seen = post(*service_, "/v1/chat/completions",
                         {{"messages", messages},
                          {"max_tokens", 9},
                          {"temperature", 0},
                          {"logprobs", true},
                          {"top_logprobs", 2},
                          {"return_token_ids", true}});
  ASSERT_EQ(seen.status, 200) << seen.body;
  const Json choice = seen.json()["choices"][0];
  EXPECT_EQ(seen.json()["object"], "chat.completion");
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["prompt_token_ids"],
            Json(engine_->vocabulary()->encode("[user]Hi[assistant]", false)));
  herd::GenerateRequest request;
  request.ids = choice["prompt_token_ids"].get<std::vector<herd::TokenId>>();
  request.max_tokens = 9;
  const auto expected = alone(request);
  EXPECT_EQ(choice["token_ids"], Json(expected.ids));
  EXPECT_EQ(choice["message"]["content"], expected.text);
  ASSERT_EQ(choice["logprobs"]["content"].size(), expected.ids.size());
  const Json& token = choice["logprobs"]["content"][0];
  EXPECT_EQ(token["top_logprobs"].size(), 2u);
  EXPECT_EQ(token["top_logprobs"][0]["token"], token["token"]) << "greedy";

  const auto events = stream_events(
      post(*service_, "/v1/chat/completions",
           {{"messages", messages}, {"max_tokens", 9}, {"temperature", 0}, {"stream", true}})
          .body);
  std::string text;
  for (const Json& event : events) {
    if (event.is_null()) continue;
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    text += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, expected.text);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
}

TEST_F(ServiceTest, AnswersKeepToTheirFormat) {
  start_chat();
  const Json hello = {{{"role", "user"}, {"content", "Hi"}}};
  const auto ask = [&](const std::string& format) {
    return post(*service_, "/v1/chat/completions",
                {{"messages", hello},
                 {"seed", 1},
                 {"max_tokens", 400},
                 {"response_format", OrderedJson::parse(format)}});
  };
  // Members in the order of the schema, not of the alphabet.
  const Seen seen = ask(R"({"type": "json_schema", "json_schema": {"name": "x", "strict": true,
      "schema": {"type": "object", "additionalProperties": false, "required": ["z", "a"],
                 "properties": {"z": {"enum": ["yes", "no"]}, "a": {"type": "boolean"}}}}})");
  ASSERT_EQ(seen.status, 200) << seen.body;
  const Json choice = seen.json()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "stop");
  const std::string text = choice["message"]["content"];
  const Json answer = Json::parse(text);
  EXPECT_TRUE(answer.at("z") == "yes" || answer.at("z") == "no") << text;
  EXPECT_TRUE(answer.at("a").is_boolean()) << text;
  EXPECT_LT(text.find("\"z\""), text.find("\"a\"")) << text;
}

TEST_F(ServiceTest, S6FormatsThatCannotBeKeptAreRefused) {
  start_chat();
  const Json hello = {{{"role", "user"}, {"content", "Hi"}}};
  for (const char* schema :
       {R"({"type": "no such type"})", R"({"type": "string", "pattern": "a"})"}) {
    const Seen seen = post(
        *service_, "/v1/chat/completions",
        {{"messages", hello},
         {"response_format",
          {{"type", "json_schema"}, {"json_schema", {{"schema", OrderedJson::parse(schema)}}}}}});
    EXPECT_EQ(seen.status, 400) << "never an answer without the constraint: " << seen.body;
  }
}

TEST_F(ServiceTest, S7ATemplateMayRefuse) {
  ServiceOptions options = service_options();
  options.chat_template = *herd::ChatTemplate::parse("{{ raise_exception('no') }}");
  start(std::move(options));
  const Seen seen = post(*service_, "/v1/chat/completions",
                         {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}});
  EXPECT_EQ(seen.status, 400) << seen.body;
  start();
  EXPECT_EQ(post(*service_, "/v1/chat/completions",
                 {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}})
                .status,
            400)
      << "no template";
}

TEST_F(ServiceTest, ErrorsNameWhatIsWrong) {
  start();
  const auto error = [&](const OrderedJson& body) {
    const Seen seen = complete(body);
    Json json = seen.json()["error"];
    json["status"] = seen.status;
    return json;
  };
  EXPECT_EQ(error({{"prompt", "x"}, {"model", "other"}})["code"], "model_not_found");
  EXPECT_EQ(error({{"prompt", "x"}, {"model", "../../etc/passwd"}})["status"], 404);  // S12
  EXPECT_EQ(error({{"prompt", std::vector<int>(600, 5)}})["code"], "context_length_exceeded");
  EXPECT_EQ(error({{"prompt", {5, 384}}})["status"], 400) << "beyond the vocabulary";
  EXPECT_EQ(error({{"prompt", "x"}, {"logit_bias", {{"384", 1}}}})["status"], 400);
  EXPECT_EQ(error({{"prompt", "x"}, {"top_p", 0}})["status"], 400);
  EXPECT_EQ(error({{"prompt", OrderedJson(std::vector<std::string>(64, "x"))}, {"n", 8}})["param"],
            "n")
      << "more than the queue holds";
  EXPECT_EQ(get(*service_, "/nothing").status, 404);
  EXPECT_EQ(get(*service_, "/v1/completions").status, 405);
  EXPECT_EQ(ask(*service_, head("OPTIONS", "/v1/completions")).status, 405) << "CORS is off";
}

TEST_F(ServiceTest, S3ABadRequestFailsAlone) {
  start();
  auto neighbour = run({{"prompt", "x"}, {"max_tokens", 300}, {"ignore_eos", true}, {"seed", 1}});
  for (int i = 0; i < 20; ++i) {
    complete({{"prompt", "x"}, {"min_p", 1}});
    ask(*service_, head("POST", "/v1/completions"), std::string(1000, '['));
  }
  Job::Output output;
  while (!output.done) output = neighbour->poll(Clock::now());
  EXPECT_EQ(output.reply->status, 200);
  EXPECT_EQ(get(*service_, "/health").status, 200);
}

TEST_F(ServiceTest, S3HealthIsTheEnginesHeartbeat) {
  herd::EngineStats stats;
  stats.seconds_in_step = 1.9;
  EXPECT_EQ(health_reply(stats, 2).status, 200);
  stats.seconds_in_step = 2.1;
  EXPECT_EQ(health_reply(stats, 2).status, 503);
}

TEST_F(ServiceTest, S15EachKeyHasItsOwnPrefixes) {
  ServiceOptions options = service_options();
  options.access.keys = {"one", "two"};
  start(std::move(options));
  const std::vector<int> prompt(200, 40);
  const auto cached = [&](const std::string& key) {
    HttpHead h = head("POST", "/v1/completions");
    h.authorization = "Bearer " + key;
    const Seen seen = ask(*service_, h, dump({{"prompt", prompt}, {"max_tokens", 1}}));
    EXPECT_EQ(seen.status, 200) << seen.body;
    return seen.json()["usage"]["prompt_tokens_details"]["cached_tokens"].get<int>();
  };
  EXPECT_EQ(cached("one"), 0);
  EXPECT_GT(cached("one"), 100);
  EXPECT_EQ(cached("two"), 0) << "what others asked cannot be told from the time";
  EXPECT_EQ(complete({{"prompt", "x"}}).status, 401);
  EXPECT_EQ(get(*service_, "/metrics").status, 401);
  EXPECT_EQ(get(*service_, "/health").status, 200);
}

TEST_F(ServiceTest, S16DroppingAJobCancelsItsAnswers) {
  start();
  auto job = run({{"prompt", "x"}, {"max_tokens", 400}, {"n", 4}, {"ignore_eos", true}});
  EXPECT_EQ(service_->jobs(), 1u);
  job.reset();
  ASSERT_TRUE(engine_->wait_idle(5s));
  const herd::EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_LT(stats.answer_tokens, 1600u);
  EXPECT_EQ(service_->jobs(), 0u);
  EXPECT_EQ(service_->metrics().cancels("disconnect"), 1u);
}

TEST_F(ServiceTest, S17AFullQueueSaysWhenToComeBack) {
  herd::EngineOptions engine;
  engine.max_queue = 2;
  ServiceOptions options = service_options();
  options.max_queue = 2;
  start(std::move(options), engine, 1);
  std::vector<std::unique_ptr<Job>> jobs;
  std::optional<HttpReply> refused;
  const std::string body = dump({{"prompt", "x"}, {"max_tokens", 500}, {"ignore_eos", true}});
  for (int i = 0; i < 8 && !refused; ++i) {
    auto handled = service_->handle(head("POST", "/v1/completions"), body, [] {});
    if (auto* reply = std::get_if<HttpReply>(&handled))
      refused = std::move(*reply);
    else
      jobs.push_back(std::move(std::get<std::unique_ptr<Job>>(handled)));
  }
  ASSERT_TRUE(refused);
  EXPECT_GE(jobs.size(), 2u);
  EXPECT_EQ(refused->status, 503);
  EXPECT_EQ(refused->headers.at(0).first, "Retry-After");
  EXPECT_EQ(service_->check_head(head("POST", "/v1/completions"))->status, 503)
      << "before the body is read";
  EXPECT_GE(service_->metrics().rejects("queue_full"), 2u);
}

TEST_F(ServiceTest, OneKeysRequestsMayBeLimited) {
  ServiceOptions options = service_options();
  options.limits.key_requests = 1;
  start(std::move(options));
  auto job = run({{"prompt", "x"}, {"max_tokens", 400}, {"ignore_eos", true}});
  EXPECT_EQ(complete({{"prompt", "x"}}).status, 429);
  job.reset();
  EXPECT_EQ(complete({{"prompt", "x"}}).status, 200);
}

TEST_F(ServiceTest, DrainingRefusesWhatIsNew) {
  start();
  EXPECT_EQ(get(*service_, "/ready").status, 200);
  auto job = run({{"prompt", "x"}, {"max_tokens", 30}, {"stream", true}, {"ignore_eos", true}});
  service_->drain();
  EXPECT_EQ(get(*service_, "/ready").status, 503);
  EXPECT_EQ(get(*service_, "/health").status, 200);
  EXPECT_EQ(complete({{"prompt", "x"}}).status, 503);
  std::string stream;
  for (Job::Output output; !output.done; stream += output.stream) output = job->poll(Clock::now());
  EXPECT_TRUE(stream.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServiceTest, AnAbortedStreamEndsWithAnError) {
  start();
  auto job = run({{"prompt", "x"}, {"max_tokens", 400}, {"stream", true}, {"ignore_eos", true}});
  std::string stream;
  while (stream.empty()) stream += job->poll(Clock::now()).stream;
  ApiError why;
  why.status = 503;
  why.message = "the end";
  why.reason = "shutdown";
  job->abort(why);
  const Job::Output last = job->poll(Clock::now());
  EXPECT_TRUE(last.done);
  const auto events = stream_events(stream + last.stream);
  EXPECT_EQ(events.back()["error"]["message"], "the end");
  EXPECT_EQ(service_->metrics().cancels("shutdown"), 1u);

  auto unheard = run({{"prompt", "x"}, {"max_tokens", 400}, {"stream", true}});
  unheard->abort(why);
  EXPECT_EQ(unheard->poll(Clock::now()).reply->status, 503) << "nothing was sent yet";
}

TEST_F(ServiceTest, WaitingTooLongIs503) {
  herd::EngineOptions engine;
  engine.queue_wait = 1ms;
  start(service_options(), engine, 1);
  auto first = run({{"prompt", "x"}, {"max_tokens", 500}, {"ignore_eos", true}});
  const Seen seen = complete({{"prompt", "x"}, {"stream", true}});
  EXPECT_EQ(seen.status, 503) << seen.body;
}

TEST_F(ServiceTest, TokenizerInfoAsLmEvalReadsIt) {
  ServiceOptions options = service_options();
  options.eos_token = "</s>";
  options.template_text = kTemplate;
  start(std::move(options));
  const Json info = get(*service_, "/tokenizer_info").json();
  EXPECT_EQ(info["eos_token"], "</s>");
  EXPECT_EQ(info["bos_token"], nullptr) << "unknown";
  EXPECT_EQ(info["chat_template"], kTemplate);
  EXPECT_EQ(info["model_max_length"], 512);
}

TEST_F(ServiceTest, SmallRoutes) {
  start();
  const Json models = get(*service_, "/v1/models").json();
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  const Json tokens = post(*service_, "/tokenize", {{"prompt", "Hello"}}).json();
  EXPECT_EQ(tokens["tokens"][0], 1) << "BOS";
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  Json plain = post(*service_, "/tokenize", {{"prompt", "Hello"}, {"add_special_tokens", false}})
                   .json()["tokens"];
  EXPECT_EQ(post(*service_, "/detokenize", {{"tokens", plain}}).json()["prompt"], "Hello");
  EXPECT_EQ(post(*service_, "/detokenize", {{"tokens", {384}}}).status, 400);
  complete({{"prompt", "x"}, {"max_tokens", 2}, {"ignore_eos", true}});
  EXPECT_EQ(get(*service_, "/stats").json()["answer_tokens"], 2);
  EXPECT_NE(get(*service_, "/metrics").body.find("herd_answer_tokens_total 2\n"),
            std::string::npos);
  EXPECT_NE(get(*service_, "/").body.find("<html"), std::string::npos);
}

TEST_F(ServiceTest, TokensThatAreNoUtf8AreSpelt) {
  start();
  std::int64_t offset = 0;
  const auto vocabulary = engine_->vocabulary();
  // tiny-mha: token 3 + b is the byte b.
  const OrderedJson lp =
      completion_logprobs({{3 + 0xc3, -1.0f, {}}, {3 + 0xa9, -2.0f, {}}}, *vocabulary, offset);
  EXPECT_EQ(lp["tokens"][0], "bytes:\\xc3");
  EXPECT_EQ(lp["text_offset"], OrderedJson({0, 1}));
  EXPECT_EQ(offset, 1) << "two bytes, one character";
  const OrderedJson chat = chat_logprobs({{3 + 0xc3, -1.0f, {}}}, *vocabulary);
  EXPECT_EQ(chat["content"][0]["bytes"], OrderedJson({0xc3}));
}

}  // namespace
}  // namespace server::test
