// Clients of a herd::Engine for the tests: they submit, read whole answers and compare them.
#pragma once

#include <gtest/gtest.h>

#include <thread>

#include "herd/engine.h"
#include "tiny_model.h"

namespace herd::test {

using namespace std::chrono_literals;

inline std::unique_ptr<Engine> start(LlamaModel model, EngineOptions options = {}) {
  auto engine = Engine::create(std::move(model), std::move(options));
  if (!engine.ok()) throw std::runtime_error(engine.error().message);
  return std::move(*engine);
}
inline GenerateRequest ask(std::vector<TokenId> ids, std::int32_t max_tokens = 12) {
  GenerateRequest request;
  request.ids = std::move(ids);
  request.max_tokens = max_tokens;
  request.ignore_end = true;
  return request;
}

inline Answer submit(Engine& engine, GenerateRequest request, SubmitOptions options = {}) {
  auto answer = engine.submit(std::move(request), std::move(options));
  if (!answer.ok()) throw std::runtime_error(answer.error().message);
  return std::move(*answer);
}

/// A batch of six over few tokens and short steps; room for `kv_tokens`, 0: automatic.
inline ModelOptions small_batch(std::int64_t kv_tokens = 0) {
  ModelOptions o;
  o.threads = 1;
  o.batch_size = 6;
  o.context = 160;
  o.max_rows = 40;
  o.kv_tokens = kv_tokens;
  return o;
}

/// What the library answers to each request when asked alone.
inline std::vector<GenerateResult> answers_alone(LlamaModel& model,
                                                 const std::vector<GenerateRequest>& requests) {
  std::vector<GenerateResult> results;
  for (const auto& request : requests)
    results.push_back(std::move((*generate(model, {&request, 1}))[0]));
  return results;
}

/// Greedy and drawn answers, a few of them from the ten likeliest.
inline std::vector<GenerateRequest> drawn_requests(Dice& dice, int count, int longest_prompt,
                                                   int most_tokens, std::int32_t vocab) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < count; ++i) {
    GenerateRequest r;
    r.ids = dice.ids(dice.roll(1, longest_prompt), vocab);
    r.max_tokens = dice.roll(1, most_tokens);
    r.ignore_end = true;
    r.sampling.temperature = i % 3 == 0 ? 0.0f : 0.9f;
    r.sampling.top_k = i % 4 == 0 ? 10 : 0;
    r.sampling.seed = static_cast<std::uint64_t>(i);
    requests.push_back(r);
  }
  return requests;
}

/// A model whose device chooses tokens gives what the host would choose. Afterwards `requests` are
/// those that the host chooses for, `on_host` their answers.
inline void expect_the_same_however_sampled(LlamaModel& model,
                                            std::vector<GenerateRequest>& requests,
                                            std::vector<GenerateResult>& on_host) {
  const auto on_device = generate(model, requests);
  for (GenerateRequest& r : requests) r.logprobs = 0;  // the host needs the logits
  auto chosen_here = generate(model, requests);
  ASSERT_TRUE(on_device.ok() && chosen_here.ok());
  on_host = std::move(*chosen_here);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ((*on_device)[i].ids.size(), static_cast<std::size_t>(requests[i].max_tokens));
    EXPECT_EQ((*on_device)[i].ids, on_host[i].ids) << i;
  }
}

/// All events of an answer as one.
struct Whole {
  std::vector<TokenId> ids;
  std::string text;
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
  FinishReason finish_reason = FinishReason::none;
  Error error;
  Usage usage;

  void add(const Event& event) {
    EXPECT_EQ(finish_reason, FinishReason::none) << "an event after the last";
    if (event.id >= 0) ids.push_back(event.id);
    text += event.text;
    if (event.logprob) logprobs.push_back(*event.logprob);
    prompt_logprobs.insert(prompt_logprobs.end(), event.prompt_logprobs.begin(),
                           event.prompt_logprobs.end());
    finish_reason = event.finish_reason;
    error = event.error;
    usage = event.usage;
  }
};
inline Whole read(Answer& answer) {
  Whole whole;
  while (const auto event = answer.next()) whole.add(*event);
  return whole;
}
inline Whole read(Answer&& answer) {
  return read(answer);
}

inline void expect_same(const TokenLogprob& a, const TokenLogprob& b) {
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(a.logprob, b.logprob);  // bits
  EXPECT_EQ(a.top, b.top);
}

inline void expect_same(const Whole& got, const GenerateResult& alone) {
  EXPECT_EQ(got.ids, alone.ids);
  EXPECT_EQ(got.text, alone.text);
  EXPECT_EQ(got.finish_reason, alone.finish_reason) << got.error.message;
  ASSERT_EQ(got.logprobs.size(), alone.logprobs.size());
  for (std::size_t i = 0; i < alone.logprobs.size(); ++i)
    expect_same(got.logprobs[i], alone.logprobs[i]);
  ASSERT_EQ(got.prompt_logprobs.size(), alone.prompt_logprobs.size());
  for (std::size_t i = 0; i < alone.prompt_logprobs.size(); ++i)
    EXPECT_EQ(got.prompt_logprobs[i].logprob, alone.prompt_logprobs[i]);
  EXPECT_EQ(got.usage.prompt_tokens, std::ssize(alone.prompt_ids));
  EXPECT_EQ(got.usage.answer_tokens, std::ssize(alone.ids));
}

inline void expect_all_same(const std::vector<Whole>& got,
                            const std::vector<GenerateResult>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    expect_same(got[i], expected[i]);
  }
}

/// Four threads submit 64 requests at random times and read their answers.
inline std::vector<Whole> run_concurrently(Engine& engine,
                                           const std::vector<GenerateRequest>& requests,
                                           std::uint64_t seed) {
  std::vector<Whole> answers(requests.size());
  std::vector<std::thread> clients;
  for (std::size_t t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      Dice dice(seed + t);
      std::vector<std::pair<std::size_t, Answer>> mine;
      for (std::size_t i = t; i < requests.size(); i += 4) {
        mine.emplace_back(i, submit(engine, requests[i]));
        std::this_thread::sleep_for(std::chrono::microseconds(dice.roll(0, 3000)));
      }
      for (auto& [i, answer] : mine) answers[i] = read(answer);
    });
  for (std::thread& client : clients) client.join();
  return answers;
}

inline void expect_no_page_used(Engine& engine) {
  ASSERT_TRUE(engine.wait_idle(60s));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_EQ(stats.pages_free + stats.pages_cached, stats.pages);
  EXPECT_EQ(stats.waiting + stats.running, 0);
}

}  // namespace herd::test
