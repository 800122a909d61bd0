// herd::Engine: whatever happens around a request, its answer is that of the same request alone.
// Those named EngineThreads also run under the thread sanitizer.
#include <atomic>
#include <cmath>

#include "engine_clients.h"

namespace herd {
namespace {

using namespace test;

const std::string kModel = "tiny-gqa-Q4_K_M.gguf";
constexpr std::int32_t kVocab = 320;

ModelOptions small() {
  ModelOptions o;
  o.threads = 1;
  o.batch_size = 8;
  o.context = 160;
  o.max_rows = 48;
  return o;
}

std::unique_ptr<Engine> small_engine(const ModelOptions& model = small(),
                                     EngineOptions options = {}) {
  return start(load(data_file(kModel), model), std::move(options));
}

/// The oracle: one request at a time through a model of its own.
class Alone {
 public:
  Alone() : model_(load(data_file(kModel), options())) {}
  GenerateResult operator()(const GenerateRequest& request) {
    auto results = generate(model_, {&request, 1});
    EXPECT_TRUE(results.ok());
    return std::move((*results)[0]);
  }

 private:
  static ModelOptions options() {
    ModelOptions o = small();
    o.batch_size = 1;
    o.max_rows = 500;
    return o;
  }
  LlamaModel model_;
};

/// Requests of every kind; many begin with one of four beginnings, as system prompts do.
std::vector<GenerateRequest> mixed_requests(std::uint64_t seed, int count) {
  Dice dice(seed);
  std::vector<std::vector<TokenId>> beginnings;
  for (int i = 0; i < 4; ++i) beginnings.push_back(dice.ids(dice.roll(20, 80), kVocab));
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < count; ++i) {
    GenerateRequest r = ask({}, dice.roll(1, 40));
    if (dice.roll(0, 2) > 0) r.ids = beginnings[static_cast<std::size_t>(dice.roll(0, 3))];
    for (const TokenId id : dice.ids(dice.roll(1, 40), kVocab)) r.ids.push_back(id);
    r.ignore_end = dice.roll(0, 1) == 0;
    r.prompt_logprobs = dice.roll(0, 7) == 0;
    r.logprobs = dice.roll(-1, 2);
    r.sampling.seed = static_cast<std::uint64_t>(dice.roll(0, 1000));
    r.sampling.temperature = dice.roll(0, 2) == 0 ? 0.0f : 0.9f;
    r.sampling.top_k = dice.roll(0, 1) * 40;
    r.sampling.repetition_penalty = dice.roll(0, 1) == 0 ? 1.0f : 1.3f;
    if (dice.roll(0, 3) == 0) r.stop = {"e", "th"};
    requests.push_back(std::move(r));
  }
  return requests;
}

std::vector<GenerateResult> alone(const std::vector<GenerateRequest>& requests) {
  Alone run;
  std::vector<GenerateResult> results;
  for (const auto& request : requests) results.push_back(run(request));
  return results;
}

// ---- the same as alone ----

TEST(Engine, StreamsWhatGenerateGives) {
  auto engine = small_engine();
  GenerateRequest request = ask({5, 6, 7}, 30);
  request.logprobs = 2;
  request.prompt_logprobs = true;
  expect_same(read(submit(*engine, request)), Alone()(request));
  request.ids.clear();
  request.prompt = "the <|im_start|>cat";
  expect_same(read(submit(*engine, request)), Alone()(request));
  request.max_tokens = 0;
  expect_same(read(submit(*engine, request)), Alone()(request));
  request.prompt_logprobs = false;
  expect_same(read(submit(*engine, request)), Alone()(request));
}

TEST(EngineThreads, SixtyFourAtOnceAnswerAsAlone) {
  constexpr std::uint64_t kSeed = 20261;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const auto requests = mixed_requests(kSeed, 64);
  const auto expected = alone(requests);
  auto engine = small_engine();
  expect_all_same(run_concurrently(*engine, requests, kSeed), expected);
  const std::uint64_t cold = engine->stats().cached_tokens;
  {
    SCOPED_TRACE("warm cache");
    expect_all_same(run_concurrently(*engine, requests, kSeed + 9), expected);
  }
  expect_no_page_used(*engine);
  const EngineStats stats = engine->stats();
  EXPECT_GT(stats.cached_tokens - cold, cold);
  EXPECT_EQ(stats.submitted, 128u);
  EXPECT_EQ(stats.finished[static_cast<std::size_t>(FinishReason::error)], 0u);
}

TEST(EngineThreads, APoolSoSmallThatItPreemptsChangesNothing) {
  constexpr std::uint64_t kSeed = 20262;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  auto requests = mixed_requests(kSeed, 64);
  Dice dice(kSeed);
  for (auto& request : requests) {  // few pages at first, many in the end
    request.ids.resize(std::min<std::size_t>(request.ids.size(), 30));
    request.max_tokens = dice.roll(40, 120);
    request.ignore_end = true;
    request.stop.clear();
  }
  const auto expected = alone(requests);
  ModelOptions options = small();
  options.kv_tokens = 1;  // a page, and one more for each of the batch
  auto engine = small_engine(options);
  for (int round = 0; round < 2; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    expect_all_same(run_concurrently(*engine, requests, kSeed), expected);
  }
  EXPECT_GT(engine->stats().preemptions, 0u);
  expect_no_page_used(*engine);
}

TEST(EngineThreads, CancellingSomeChangesNobodyElse) {
  constexpr std::uint64_t kSeed = 20263;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const auto requests = mixed_requests(kSeed, 64);
  const auto expected = alone(requests);
  ModelOptions options = small();
  options.kv_tokens = 300;
  auto engine = small_engine(options);
  std::vector<std::optional<Answer>> answers;
  for (const auto& request : requests) answers.push_back(submit(*engine, request));
  Dice dice(kSeed);
  std::thread killer([&] {  // every third goes, by cancel or by destroying the answer
    for (std::size_t i = 0; i < answers.size(); i += 3) {
      std::this_thread::sleep_for(std::chrono::microseconds(dice.roll(0, 4000)));
      if (i % 2 == 0)
        answers[i]->cancel();
      else
        answers[i].reset();
    }
  });
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (i % 3 == 0) continue;
    SCOPED_TRACE(testing::Message() << "request " << i);
    expect_same(read(*answers[i]), expected[i]);
  }
  killer.join();
  for (std::size_t i = 0; i < answers.size(); i += 6) {
    const Whole got = read(*answers[i]);
    ASSERT_LE(got.ids.size(), expected[i].ids.size());
    EXPECT_TRUE(std::equal(got.ids.begin(), got.ids.end(), expected[i].ids.begin()));
    if (got.finish_reason == FinishReason::cancelled)
      EXPECT_EQ(got.error.message, "cancelled by its owner");
    else
      expect_same(got, expected[i]);
  }
  expect_no_page_used(*engine);
}

// ---- the cache ----

TEST(Engine, APrefixIsComputedOnceForOnePartitionOnly) {
  auto engine = small_engine();
  Dice dice(5);
  const GenerateRequest request = ask(dice.ids(100, kVocab));
  const Whole cold = read(submit(*engine, request));
  const Whole warm = read(submit(*engine, request));
  const Whole other = read(submit(*engine, request, {.cache_partition = 1}));
  EXPECT_EQ(cold.usage.cached_tokens, 0);
  EXPECT_EQ(warm.usage.cached_tokens, 96);
  EXPECT_EQ(other.usage.cached_tokens, 0);
  EXPECT_EQ(warm.ids, cold.ids);
  EXPECT_EQ(other.ids, cold.ids);
}

// ---- requests that fail alone ----

void expect_refused(Engine& engine, const GenerateRequest& request, Code code,
                    const std::string& words) {
  const auto answer = engine.submit(request);
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, code);
  EXPECT_NE(answer.error().message.find(words), std::string::npos) << answer.error().message;
}

TEST(Engine, BadRequestsAreRefusedByNameAndLimit) {
  ModelOptions options = small();
  options.kv_tokens = 1;  // 9 pages of 32
  options.context = 400;
  auto engine = small_engine(options);
  expect_refused(*engine, ask({}), Code::invalid_argument, "no tokens");
  expect_refused(*engine, ask({1, 320}), Code::invalid_argument, "id 320");
  expect_refused(*engine, ask(std::vector<TokenId>(401, 1)), Code::out_of_range,
                 "401 tokens, the context holds 400");
  expect_refused(*engine, ask(std::vector<TokenId>(280, 1), 50), Code::out_of_range,
                 "need 11 KV pages of 32 tokens, the pool has 9");
  GenerateRequest bad = ask({1});
  bad.sampling.temperature = std::nanf("");
  expect_refused(*engine, bad, Code::invalid_argument, "temperature");
  bad = ask({1}), bad.logprobs = 321;
  expect_refused(*engine, bad, Code::out_of_range, "logprobs 321");
  bad = ask({1}), bad.stop = {""};
  expect_refused(*engine, bad, Code::invalid_argument, "stop");
  EXPECT_EQ(engine->stats().submitted, 0u);
}

TEST(Engine, LogitsThatAreNotFiniteEndTheirRequestAndPoisonNobody) {
  TinyModel tiny = tiny_model();
  auto& embedding = tiny.tensors["token_embd.weight"].values;
  tiny.add_matrix("output.weight", quant::Type::F32, 101, 64, 5);
  for (std::size_t i = 50 * 64; i < 51 * 64; ++i) embedding[i] = std::nanf("");
  const TempModel file(tiny);
  auto engine = start(load(file.path(), small()));
  std::vector<TokenId> ids(70, 3);
  GenerateRequest good = ask(ids);
  good.sampling.logit_bias = {{50, -1000.0f}};
  ids[40] = 50;
  const GenerateRequest bad = ask(ids);
  GenerateRequest only_scored = bad;
  only_scored.max_tokens = 0;
  Answer first = submit(*engine, bad), second = submit(*engine, good), third = submit(*engine, bad);
  const Whole fails = read(first);
  EXPECT_EQ(fails.finish_reason, FinishReason::error);
  EXPECT_EQ(fails.error.code, Code::internal);
  EXPECT_NE(fails.error.message.find("finite"), std::string::npos) << fails.error.message;
  EXPECT_EQ(read(second).ids.size(), 12u);
  EXPECT_EQ(read(third).finish_reason, FinishReason::error);
  EXPECT_EQ(read(submit(*engine, good)).usage.cached_tokens, 64);
  EXPECT_EQ(read(submit(*engine, bad)).usage.cached_tokens, 32);  // the page before its NaN
  EXPECT_EQ(read(submit(*engine, only_scored)).finish_reason, FinishReason::error);
  expect_no_page_used(*engine);
  EXPECT_EQ(engine->stats().not_finite, 4u);
}

// ---- limits ----

/// Time that stands still unless told.
struct Clock {
  std::atomic<std::int64_t> milliseconds{0};
  std::function<std::chrono::steady_clock::time_point()> read() {
    return [this] { return std::chrono::steady_clock::time_point(1ms * milliseconds.load()); };
  }
};

TEST(Engine, AFullQueueRefusesAndTellsTheLimit) {
  ModelOptions model = small();
  model.batch_size = 1;
  auto engine = small_engine(model, {.max_queue = 2});
  std::vector<Answer> answers;
  answers.push_back(submit(*engine, ask({1}, 150)));
  while (engine->stats().steps == 0) std::this_thread::yield();  // it may have ended again
  while (answers.size() < 3) answers.push_back(submit(*engine, ask({2}, 150)));
  if (engine->stats().waiting == 2)  // not on a machine so slow that the first has ended
    expect_refused(*engine, ask({3}), Code::resource_exhausted,
                   "2 requests wait, the queue holds 2");
  for (Answer& answer : answers) EXPECT_EQ(read(answer).ids.size(), 150u);
  EXPECT_EQ(read(submit(*engine, ask({3}))).ids.size(), 12u);
}

TEST(Engine, TheQueueHasABudgetOfTokens) {
  ModelOptions model = small();
  model.batch_size = 1;
  auto engine = small_engine(model, {.max_queue_tokens = 50});
  Answer running =
      submit(*engine, ask(std::vector<TokenId>(60, 1), 100));    // alone it may be larger
  while (engine->stats().steps == 0) std::this_thread::yield();  // it may have ended again
  Answer waits = submit(*engine, ask(std::vector<TokenId>(30, 1), 100));
  if (engine->stats().waiting == 1)
    expect_refused(*engine, ask(std::vector<TokenId>(30, 1)), Code::resource_exhausted,
                   "30 prompt tokens wait, 30 more would be above the queue's 50");
  EXPECT_EQ(read(running).ids.size(), 100u);
  EXPECT_EQ(read(waits).ids.size(), 100u);
}

TEST(Engine, WaitingTooLongToRunIsAnErrorAndRunningTooLongEnds) {
  Clock clock;
  ModelOptions model = small();
  model.batch_size = 1;
  model.context = 0;
  auto engine = small_engine(model, {.queue_wait = 5s, .wall_time = 60s, .clock = clock.read()});
  Answer runs = submit(*engine, ask({1}, 100'000));
  ASSERT_TRUE(runs.next());
  Answer waits = submit(*engine, ask({2}));
  clock.milliseconds = 5'100;
  const Whole waited = read(waits);
  EXPECT_EQ(waited.finish_reason, FinishReason::error);
  EXPECT_EQ(waited.error.code, Code::resource_exhausted);
  EXPECT_EQ(waited.error.message, "waited 5.1 s to run, the limit is 5.0");
  EXPECT_TRUE(waited.ids.empty());
  clock.milliseconds = 61'000;
  const Whole ran = read(runs);
  if (ran.finish_reason != FinishReason::length) {  // the context may have ended first
    EXPECT_EQ(ran.finish_reason, FinishReason::cancelled);
    EXPECT_EQ(ran.error.message, "took 61.0 s, the limit is 60.0");
  }
  EXPECT_EQ(engine->stats().queue_timeouts, 1u);
}

TEST(Engine, ASlowReaderIsCancelledAloneAndHoldsNobodyUp) {
  Clock clock;
  ModelOptions model = small();
  model.context = 0;
  auto engine =
      small_engine(model, {.unread_bytes = 4000, .slow_reader = 30s, .clock = clock.read()});
  Answer slow = submit(*engine, ask({1}, 100'000));
  while (engine->stats().answer_tokens < 70) std::this_thread::yield();  // far behind, at 0 s
  clock.milliseconds = 31'000;
  EXPECT_EQ(read(submit(*engine, ask({2}, 140))).ids.size(), 140u);
  const Whole late = read(slow);
  if (late.finish_reason == FinishReason::length) return;  // the context may have ended first
  EXPECT_EQ(late.finish_reason, FinishReason::cancelled);
  EXPECT_NE(late.error.message.find("not taken for 31.0 s"), std::string::npos)
      << late.error.message;
  EXPECT_GE(late.ids.size(), 70u);
  EXPECT_EQ(engine->stats().slow_readers, 1u);
}

// ---- life and death ----

/// So long that nobody waits for its end.
std::vector<Answer> endless(Engine& engine, int count) {
  std::vector<Answer> answers;
  for (TokenId i = 0; i < count; ++i) answers.push_back(submit(engine, ask({i}, 100'000)));
  return answers;
}

ModelOptions long_context() {
  ModelOptions o = small();
  o.context = 0;
  return o;
}

TEST(EngineThreads, ACancelledRequestEndsAtOnceAndFreesItsPages) {
  auto engine = small_engine(long_context());
  auto answers = endless(*engine, 16);  // eight of them wait
  ASSERT_TRUE(answers[0].next());
  for (Answer& answer : answers) answer.cancel();
  for (Answer& answer : answers) EXPECT_EQ(read(answer).finish_reason, FinishReason::cancelled);
  expect_no_page_used(*engine);
  EXPECT_EQ(engine->stats().finished[static_cast<std::size_t>(FinishReason::cancelled)], 16u);
  EXPECT_LT(engine->stats().steps, 2000u);
}

TEST(EngineThreads, EndingTheEngineEndsItsRequests) {
  auto engine = small_engine(long_context());
  auto answers = endless(*engine, 20);
  ASSERT_TRUE(answers[0].next());
  engine.reset();
  for (Answer& answer : answers) {
    const Whole whole = read(answer);
    EXPECT_TRUE(answer.done());
    EXPECT_EQ(whole.finish_reason, FinishReason::cancelled);
    EXPECT_EQ(whole.error.message, "the engine ends");
  }
}

TEST(EngineThreads, AClosedEngineFinishesWhatItHas) {
  auto engine = small_engine();
  std::vector<Answer> answers;
  for (TokenId i = 0; i < 20; ++i) answers.push_back(submit(*engine, ask({i}, 20)));
  engine->close();
  expect_refused(*engine, ask({1}), Code::cancelled, "closing");
  expect_no_page_used(*engine);
  for (Answer& answer : answers) EXPECT_EQ(read(answer).ids.size(), 20u);
}

TEST(EngineThreads, CallsBackWhenEventsAreThereAfterNoneWere) {
  auto engine = small_engine();
  std::atomic<int> calls{0};
  Answer answer = submit(*engine, ask({1}, 50), {.cache_partition = 0, .on_events = [&] {
                                                   ++calls;
                                                   calls.notify_one();
                                                 }});
  Whole whole;
  for (int seen = 0; whole.finish_reason == FinishReason::none;) {
    calls.wait(seen);  // a call is never missing: else this waits for ever
    seen = calls;
    const std::vector<Event> events = answer.take();
    for (const Event& event : events) whole.add(event);
  }
  EXPECT_EQ(whole.ids.size(), 50u);
  EXPECT_TRUE(answer.done());
  EXPECT_TRUE(answer.take().empty());
  EXPECT_FALSE(answer.next());
}

TEST(Engine, StatsTellWhatGoesOn) {
  auto engine = small_engine();
  EXPECT_EQ(engine->stats().seconds_in_step, 0);
  Answer answer = submit(*engine, ask({1, 2, 3}, 100));
  ASSERT_TRUE(answer.next());
  EXPECT_EQ(read(answer).usage.answer_tokens, 100);
  ASSERT_TRUE(engine->wait_idle(60s));
  const EngineStats s = engine->stats();
  EXPECT_EQ(s.submitted, 1u);
  EXPECT_EQ(s.finished[static_cast<std::size_t>(FinishReason::length)], 1u);
  EXPECT_EQ(s.prompt_tokens, 3u);
  EXPECT_EQ(s.answer_tokens, 100u);
  EXPECT_EQ(s.steps, 100u);
  EXPECT_EQ(s.rows, 102u);
  EXPECT_EQ(s.pages, 8 * 160 / 32 + 8);
  EXPECT_EQ(s.pages_cached, 3);  // 102 positions, three pages of them full
  EXPECT_EQ(s.seconds_in_step, 0);
}

}  // namespace
}  // namespace herd
