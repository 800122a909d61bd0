// herd::generate: endings, bad requests, order, cancelling; and that nobody's answer depends on the
// others, however they are put together.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "sample/sampler.h"
#include "tiny_model.h"
#include "token/tokenizer.h"

namespace herd {
namespace {

using test::Dice;

ModelOptions small(DeviceType device = DeviceType::cpu) {
  ModelOptions o;
  o.device = device;
  o.batch_size = 4;
  o.context = 96;
  o.max_rows = 24;
  return o;
}

class EngineGenerate : public testing::Test {
 protected:
  GenerateResult run(const GenerateRequest& request) { return run_all({request})[0]; }
  std::vector<GenerateResult> run_all(const std::vector<GenerateRequest>& requests,
                                      const GenerateOptions& options = {}) {
    auto results = generate(model_, requests, options);
    EXPECT_TRUE(results.ok()) << results.error().message;
    EXPECT_TRUE(model_.check_integrity().ok());
    for (const std::int32_t cached : model_.cached_tokens()) EXPECT_EQ(cached, 0);
    return results.ok() ? std::move(*results) : std::vector<GenerateResult>(requests.size());
  }
  /// Answers that go on until max_tokens.
  static GenerateRequest ask(std::vector<TokenId> ids, std::int32_t max_tokens = 12) {
    GenerateRequest request;
    request.ids = std::move(ids);
    request.max_tokens = max_tokens;
    request.ignore_end = true;
    return request;
  }
  std::string whole_utf8(const std::vector<TokenId>& ids) {
    Detokenizer detokenizer(model_.tokenizer(), false, false);
    std::string text;
    for (const TokenId id : ids) text += detokenizer.push(id);
    return text + detokenizer.flush();
  }
  std::vector<TokenId> greedy_by_hand(std::vector<TokenId> ids, int count) {
    std::vector<TokenId> answer;
    model_.clear_batch();
    for (int i = 0; i < count; ++i) {
      const auto rows = model_.forward_batch(std::vector<std::vector<TokenId>>{ids});
      const auto& row = (*rows)[0];
      ids = {static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin())};
      answer.push_back(ids[0]);
    }
    return answer;
  }

  LlamaModel model_ = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), small());
};

TEST_F(EngineGenerate, GreedyIsTheLargestLogit) {
  const GenerateResult r = run(ask({5, 6, 7}));
  EXPECT_EQ(r.prompt_ids, (std::vector<TokenId>{5, 6, 7}));
  EXPECT_EQ(r.ids, greedy_by_hand({5, 6, 7}, 12));
  EXPECT_EQ(r.finish_reason, FinishReason::length);
  EXPECT_EQ(r.text, whole_utf8(r.ids));
  EXPECT_TRUE(r.error.empty() && r.logprobs.empty() && r.prompt_logprobs.empty());
}

TEST_F(EngineGenerate, TextPromptsAreEncodedAsTheFileSays) {
  GenerateRequest request = ask({});
  request.prompt = "the <|im_start|>cat";
  const GenerateResult r = run(request);
  EXPECT_EQ(r.prompt_ids, *model_.encode(request.prompt, model_.tokenizer()->adds_bos()));
  EXPECT_EQ(r.ids, greedy_by_hand(r.prompt_ids, 12));
}

// ---- endings ----

TEST_F(EngineGenerate, MaxTokens) {
  const GenerateResult whole = run(ask({5, 6, 7}, 20));
  ASSERT_EQ(whole.ids.size(), 20u);
  for (const std::int32_t most : {0, 1, 7}) {
    const GenerateResult r = run(ask({5, 6, 7}, most));
    EXPECT_EQ(r.ids, std::vector<TokenId>(whole.ids.begin(), whole.ids.begin() + most));
    EXPECT_EQ(r.finish_reason, FinishReason::length);
  }
}

TEST_F(EngineGenerate, AFullContextEndsTheAnswer) {
  Dice dice(3);
  // 96 positions: 90 of prompt, 6 more are fed, and the 7th token needs no place.
  const GenerateResult r = run(ask(dice.ids(90, 320), 100));
  EXPECT_EQ(r.ids.size(), 7u);
  EXPECT_EQ(r.finish_reason, FinishReason::length);
  EXPECT_EQ(run(ask(dice.ids(96, 320), 100)).ids.size(), 1u);
}

TEST_F(EngineGenerate, StopIds) {
  const GenerateResult whole = run(ask({5, 6, 7}, 20));
  GenerateRequest request = ask({5, 6, 7}, 20);
  request.stop_ids = {whole.ids[9], 319};
  const auto first = std::find(whole.ids.begin(), whole.ids.end(), whole.ids[9]);
  const GenerateResult r = run(request);
  EXPECT_EQ(r.ids, std::vector<TokenId>(whole.ids.begin(), first + 1));  // the stop id is in
  EXPECT_EQ(r.finish_reason, FinishReason::stop);
}

TEST_F(EngineGenerate, TheModelsEndTokenUnlessIgnored) {
  const TokenId end = model_.tokenizer()->eos();
  GenerateRequest request = ask({5, 6, 7}, 20);
  request.sampling.logit_bias = {{end, 1000.0f}};
  EXPECT_EQ(run(request).ids, std::vector<TokenId>(20, end));
  request.ignore_end = false;
  const GenerateResult r = run(request);
  EXPECT_EQ(r.ids, std::vector<TokenId>{end});
  EXPECT_EQ(r.text, "");  // a control token has no text
  EXPECT_EQ(r.finish_reason, FinishReason::stop);
}

TEST_F(EngineGenerate, StopStrings) {
  const GenerateResult whole = run(ask({5, 6, 7}, 40));
  for (std::size_t at = 0; at + 3 < whole.text.size(); ++at) {
    GenerateRequest request = ask({5, 6, 7}, 40);
    request.stop = {"never to be seen", whole.text.substr(at, 3)};
    std::string streamed;
    GenerateOptions options;
    options.on_event = [&](const GenerateEvent& e) { streamed += e.text; };
    const GenerateResult r = run_all({request}, options)[0];
    EXPECT_EQ(r.text, whole.text.substr(0, whole.text.find(request.stop[1])));
    EXPECT_EQ(r.finish_reason, FinishReason::stop);
    EXPECT_EQ(streamed, r.text);
    ASSERT_LE(r.ids.size(), whole.ids.size());
    EXPECT_TRUE(std::equal(r.ids.begin(), r.ids.end(), whole.ids.begin()));
  }
}

TEST_F(EngineGenerate, EventsHaveTheLogProbabilitiesOfTheResult) {
  std::vector<GenerateRequest> requests = {ask({5, 6, 7}, 12), ask({1}, 9), ask({3, 2}, 7)};
  requests[0].logprobs = 2;
  requests[2].logprobs = 0;
  std::vector<std::vector<TokenLogprob>> seen(3);
  GenerateOptions options;
  options.on_event = [&](const GenerateEvent& e) {
    if (e.logprob != nullptr) seen[e.request].push_back(*e.logprob);
  };
  const std::vector<GenerateResult> results = run_all(requests, options);
  ASSERT_EQ(seen[0].size(), 12u);
  EXPECT_TRUE(seen[1].empty());
  ASSERT_EQ(seen[2].size(), 7u);
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(seen[i].size(), results[i].logprobs.size());
    for (std::size_t k = 0; k < seen[i].size(); ++k) {
      EXPECT_EQ(seen[i][k].id, results[i].ids[k]);
      EXPECT_EQ(seen[i][k].logprob, results[i].logprobs[k].logprob);
      EXPECT_LT(seen[i][k].logprob, 0.0F);
      EXPECT_EQ(seen[i][k].top, results[i].logprobs[k].top);
    }
  }
  EXPECT_EQ(seen[0][0].top.size(), 2u);
}

TEST_F(EngineGenerate, TextHeldBackForAStopStringArrivesAtTheEnd) {
  const GenerateResult whole = run(ask({5, 6, 7}, 12));
  GenerateRequest request = ask({5, 6, 7}, 12);
  request.stop = {whole.text.substr(whole.text.size() - 1) + "never"};
  EXPECT_EQ(run(request).text, whole.text);
}

// ---- bad requests ----

TEST_F(EngineGenerate, AnEmptyListIsAnError) {
  const auto results = generate(model_, {});
  ASSERT_FALSE(results.ok());
  EXPECT_EQ(results.error().code, Code::invalid_argument);
}

TEST_F(EngineGenerate, BadRequestsFailAlone) {
  struct Bad {
    std::function<void(GenerateRequest&)> spoil;
    std::string word;
  };
  const Bad bad[] = {
      {[](GenerateRequest& r) {
         r.ids = {1, 320};
       },
       "320"},
      {[](GenerateRequest& r) { r.ids = {-1}; }, "-1"},
      {[](GenerateRequest& r) { r.ids.assign(97, 1); }, "97"},
      {[](GenerateRequest& r) { r.ids.clear(); }, "prompt"},  // and no text either
      {[](GenerateRequest& r) { r.sampling.temperature = -1; }, "temperature"},
      {[](GenerateRequest& r) { r.sampling.top_p = std::nanf(""); }, "top_p"},
      {[](GenerateRequest& r) { r.max_tokens = -1; }, "max_tokens"},
      {[](GenerateRequest& r) { r.logprobs = -2; }, "logprobs"},
      {[](GenerateRequest& r) {
         r.stop = {"a", ""};
       },
       "stop"},
      {[](GenerateRequest& r) { r.stop_ids = {320}; }, "320"},
  };
  const GenerateResult good = run(ask({5, 6, 7}));
  std::vector<GenerateRequest> requests = {ask({5, 6, 7})};
  for (const Bad& b : bad) {
    requests.push_back(ask({5, 6, 7}));
    b.spoil(requests.back());
    requests.push_back(ask({5, 6, 7}));
  }
  std::vector<FinishReason> ends(requests.size(), FinishReason::none);
  GenerateOptions options;
  options.on_event = [&](const GenerateEvent& e) {
    EXPECT_EQ(ends[e.request], FinishReason::none) << "after the end";
    ends[e.request] = e.finish_reason;
  };
  const auto results = run_all(requests, options);
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(ends[i], results[i].finish_reason);
    if (i % 2 == 0) {
      EXPECT_EQ(results[i].ids, good.ids);
      continue;
    }
    EXPECT_EQ(results[i].finish_reason, FinishReason::error) << i;
    EXPECT_NE(results[i].error.find(bad[i / 2].word), std::string::npos) << results[i].error;
    EXPECT_TRUE(results[i].ids.empty());
  }
}

TEST_F(EngineGenerate, MoreThanTheCacheHoldsFailsAlone) {
  ModelOptions options = small();
  options.batch_size = 1;
  options.kv_tokens = 32;  // and one part page: 64
  model_ = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  const auto results = run_all({ask(std::vector<TokenId>(60, 4), 20), ask({5, 6, 7})});
  EXPECT_EQ(results[0].finish_reason, FinishReason::error);
  EXPECT_NE(results[0].error.find("3 KV pages"), std::string::npos) << results[0].error;
  EXPECT_EQ(results[1].ids.size(), 12u);
}

/// Logits that are not finite end their sequence only.
TEST(EngineGenerateNan, EndsThatSequence) {
  test::TinyModel tiny = test::tiny_model();
  auto& embedding = tiny.tensors["token_embd.weight"].values;
  tiny.add_matrix("output.weight", quant::Type::F32, 101, 64, 5);
  for (std::size_t i = 50 * 64; i < 51 * 64; ++i) embedding[i] = std::nanf("");
  const test::TempModel file(tiny);
  ModelOptions options;
  LlamaModel model = test::load(file.path(), options);
  std::vector<GenerateRequest> requests(3);
  requests[0].ids = {1, 2}, requests[1].ids = {1, 50, 2}, requests[2].ids = {3};
  requests[1].prompt_logprobs = true;
  for (auto& request : requests) request.max_tokens = 5;
  for (auto& request : requests) request.sampling.logit_bias = {{50, -1000.0f}};
  const auto results = generate(model, requests);
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].ids.size(), 5u);
  EXPECT_EQ((*results)[2].ids.size(), 5u);
  EXPECT_EQ((*results)[1].finish_reason, FinishReason::error);
  EXPECT_NE((*results)[1].error.find("finite"), std::string::npos) << (*results)[1].error;
}

// ---- without a tokeniser, or with fewer tokens than the model has ids ----

TEST(EngineGenerateIds, WorkWithoutATokeniser) {
  const test::TempModel file;
  LlamaModel model = test::load(file.path(), {});
  std::vector<GenerateRequest> requests(3);
  requests[0].ids = {1, 2, 3};
  requests[1].prompt = "text";
  requests[2].ids = {1}, requests[2].stop = {"x"};
  const auto results = generate(model, requests);
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].ids.size(), 128u);
  EXPECT_EQ((*results)[0].text, "");
  for (const std::size_t i : {1u, 2u}) {
    EXPECT_EQ((*results)[i].finish_reason, FinishReason::error);
    EXPECT_NE((*results)[i].error.find("tokenizer"), std::string::npos) << (*results)[i].error;
  }
}

// ---- in company ----

std::vector<GenerateRequest> mixed_requests(std::uint64_t seed, int count) {
  Dice dice(seed);
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < count; ++i) {
    GenerateRequest r;
    r.ids = dice.ids(dice.roll(1, 60), 320);
    r.max_tokens = dice.roll(0, 30);
    r.ignore_end = dice.roll(0, 1) == 0;
    r.prompt_logprobs = dice.roll(0, 3) == 0;
    r.logprobs = dice.roll(-1, 2);
    r.sampling.seed = static_cast<std::uint64_t>(dice.roll(0, 1000));
    r.sampling.temperature = dice.roll(0, 2) == 0 ? 0.0f : 0.9f;
    r.sampling.top_k = dice.roll(0, 1) * 40;
    r.sampling.top_p = dice.roll(0, 1) == 0 ? 1.0f : 0.9f;
    r.sampling.repetition_penalty = dice.roll(0, 1) == 0 ? 1.0f : 1.3f;
    r.sampling.presence_penalty = dice.roll(0, 1) == 0 ? 0.0f : 0.5f;
    if (dice.roll(0, 2) == 0) r.stop = {"e", "th"};
    requests.push_back(r);
  }
  return requests;
}

void expect_same(const GenerateResult& a, const GenerateResult& b) {
  EXPECT_EQ(a.prompt_ids, b.prompt_ids);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.finish_reason, b.finish_reason);
  EXPECT_EQ(a.prompt_logprobs, b.prompt_logprobs);  // bits
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (std::size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(a.logprobs[i].id, b.logprobs[i].id);
    EXPECT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob);
    EXPECT_EQ(a.logprobs[i].top, b.logprobs[i].top);
  }
}

TEST_F(EngineGenerate, TheSameAloneAndBatched) {
  constexpr std::uint64_t kSeed = 4711;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const auto requests = mixed_requests(kSeed, 40);
  std::vector<GenerateResult> alone;
  for (const auto& request : requests) alone.push_back(run(request));
  for (const std::int64_t kv_tokens : {0, 150}) {  // 150: places are free, pages are not
    for (const std::int32_t batch_size : {1, 3, 16}) {
      for (const std::int32_t max_rows : {16, 200}) {
        SCOPED_TRACE(testing::Message()
                     << "batch " << batch_size << ", rows " << max_rows << ", KV " << kv_tokens);
        ModelOptions options = small();
        options.batch_size = batch_size;
        options.max_rows = max_rows;
        options.kv_tokens = kv_tokens;
        model_ = test::load(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
        const auto results = run_all(requests);
        for (std::size_t i = 0; i < requests.size(); ++i) {
          SCOPED_TRACE(testing::Message() << "request " << i);
          expect_same(results[i], alone[i]);
        }
      }
    }
  }
}

TEST_F(EngineGenerate, SeedsChooseTheAnswer) {
  GenerateRequest request = ask({5, 6, 7}, 16);
  request.sampling.temperature = 1.5f;
  std::vector<GenerateRequest> requests(6, request);
  for (std::size_t i = 0; i < 6; ++i) requests[i].sampling.seed = i / 2;
  const auto results = run_all(requests);
  EXPECT_EQ(results[0].ids, results[1].ids);
  EXPECT_EQ(results[2].ids, results[3].ids);
  EXPECT_NE(results[0].ids, results[2].ids);
  EXPECT_NE(results[2].ids, results[4].ids);
}

TEST_F(EngineGenerate, PenaltiesSeePromptAndAnswer) {
  const GenerateResult plain = run(ask({5, 6, 7}, 30));
  GenerateRequest request = ask({5, 6, 7}, 30);
  request.sampling.presence_penalty = 2.0f;
  request.sampling.frequency_penalty = 2.0f;
  const GenerateResult r = run(request);
  // By hand: the same choice from the same logits.
  std::vector<TokenId> answer, next = {5, 6, 7};
  Sampler sampler(320);
  const std::vector<TokenId> prompt = {5, 6, 7};
  for (int i = 0; i < 30; ++i) {
    const auto rows = model_.forward_batch(std::vector<std::vector<TokenId>>{next});
    next = {sampler.sample((*rows)[0], request.sampling, {prompt, answer}, 3 + i)->id};
    answer.push_back(next[0]);
  }
  EXPECT_EQ(r.ids, answer);
  EXPECT_NE(r.ids, plain.ids);
}

TEST_F(EngineGenerate, Logprobs) {
  GenerateRequest request = ask({5, 6, 7, 8, 9}, 6);
  request.logprobs = 3;
  request.prompt_logprobs = true;
  const GenerateResult r = run(request);
  ASSERT_EQ(r.prompt_logprobs.size(), 4u);
  ASSERT_EQ(r.logprobs.size(), 6u);
  std::vector<TokenId> all = r.prompt_ids;
  all.insert(all.end(), r.ids.begin(), r.ids.end());
  model_.clear_batch();
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    const auto rows = model_.forward_batch(std::vector<std::vector<TokenId>>{{all[i]}});
    const auto& row = (*rows)[0];
    const auto next = static_cast<std::size_t>(all[i + 1]);
    const double expected = static_cast<double>(row[next]) - log_sum_exp(row);
    if (i + 1 < 5) {
      EXPECT_NEAR(r.prompt_logprobs[i], expected, 1e-5);
    } else {
      const TokenLogprob& given = r.logprobs[i - 4];
      EXPECT_EQ(given.id, all[i + 1]);
      EXPECT_NEAR(given.logprob, expected, 1e-5);
      ASSERT_EQ(given.top.size(), 3u);
      EXPECT_EQ(given.top[0].first, given.id);  // greedy
      EXPECT_GE(given.top[0].second, given.top[1].second);
    }
  }
}

TEST_F(EngineGenerate, PromptLogprobsWithoutAnAnswer) {
  Dice dice(6);
  GenerateRequest request = ask(dice.ids(80, 320), 0);  // more rows than a step, than logits
  request.prompt_logprobs = true;
  const GenerateResult r = run(request);
  EXPECT_EQ(r.prompt_logprobs.size(), 79u);
  EXPECT_TRUE(r.ids.empty());
  EXPECT_EQ(r.finish_reason, FinishReason::length);
}

// ---- events ----

TEST_F(EngineGenerate, EventsSpellTheResults) {
  auto requests = mixed_requests(99, 12);
  std::vector<GenerateResult> heard(requests.size());
  GenerateOptions options;
  options.on_event = [&](const GenerateEvent& e) {
    EXPECT_EQ(heard[e.request].finish_reason, FinishReason::none);
    if (e.id >= 0) heard[e.request].ids.push_back(e.id);
    heard[e.request].text += e.text;
    heard[e.request].finish_reason = e.finish_reason;
  };
  const auto results = run_all(requests, options);
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(heard[i].ids, results[i].ids) << i;
    EXPECT_EQ(heard[i].text, results[i].text) << i;
    EXPECT_EQ(heard[i].finish_reason, results[i].finish_reason) << i;
  }
}

TEST_F(EngineGenerate, FirstComeFirstServed) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 11; ++i) requests.push_back(ask({10 + i}, 3 + i % 3));
  std::vector<std::size_t> first_seen;
  GenerateOptions options;
  options.on_event = [&](const GenerateEvent& e) {
    if (std::find(first_seen.begin(), first_seen.end(), e.request) == first_seen.end())
      first_seen.push_back(e.request);
  };
  run_all(requests, options);
  ASSERT_EQ(first_seen.size(), 11u);
  EXPECT_TRUE(std::is_sorted(first_seen.begin(), first_seen.end()));
}

TEST_F(EngineGenerate, AnswersRunTogether) {
  const std::uint64_t before = model_.counters().steps;
  run_all({ask({1}, 10), ask({2}, 10), ask({3}, 10), ask({4}, 10)});
  EXPECT_EQ(model_.counters().steps - before, 10u);
}

TEST_F(EngineGenerate, CancellingKeepsWhatWasGenerated) {
  const GenerateResult whole = run(ask({5, 6, 7}, 20));
  int polls = 0;
  GenerateOptions options;
  options.cancelled = [&] { return ++polls > 6; };
  std::vector<GenerateRequest> requests(5, ask({5, 6, 7}, 20));  // the fifth waits for a place
  const auto results = run_all(requests, options);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(results[i].finish_reason, FinishReason::cancelled);
    const std::size_t n = i < 4 ? 6 : 0;
    EXPECT_EQ(results[i].ids,
              std::vector<TokenId>(whole.ids.begin(),
                                   whole.ids.begin() + static_cast<std::ptrdiff_t>(n)));
  }
  EXPECT_EQ(results[0].text, whole_utf8(results[0].ids));
}

TEST_F(EngineGenerate, ClearsTheBatch) {
  ASSERT_TRUE(model_.forward_batch(std::vector<std::vector<TokenId>>{{1, 2, 3}}).ok());
  EXPECT_EQ(run(ask({5, 6, 7})).ids, greedy_by_hand({5, 6, 7}, 12));
}

}  // namespace
}  // namespace herd
