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
