// The commands that measure: score, perplexity, fidelity. Their figures, held against logits and
// against each other, and their bytes, which no batch size may change.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "cli/run_herd.h"

namespace herd::test {
namespace {

using nlohmann::json;
const std::string kModel = data("tiny-gqa-Q4_K_M.gguf");
constexpr std::size_t kVocab = 320;

std::vector<std::vector<float>> logits_of(const json& sequences, const std::string& model = kModel,
                                          const std::vector<std::string>& more = {}) {
  Folder folder;
  std::vector<std::string> arguments = {
      "logits", "-m",        model, "--ids", folder.write("ids.json", sequences.dump()),
      "--out",  folder / "l"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Outcome run = herd(arguments);
  EXPECT_EQ(run.status, 0) << run.err;
  const std::string bytes = folder.read("l");
  std::vector<std::vector<float>> rows(bytes.size() / (4 * kVocab), std::vector<float>(kVocab));
  for (std::size_t i = 0; i < rows.size(); ++i)
    std::memcpy(rows[i].data(), bytes.data() + i * 4 * kVocab, 4 * kVocab);
  return rows;
}

double logprob(const std::vector<float>& logits, std::size_t id) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - largest);
  return static_cast<double>(logits[id]) - largest - std::log(sum);
}

/// Many lines over a few contexts, in both spellings.
std::string score_lines() {
  std::string out;
  const std::vector<std::string> contexts = {
      "The river was low and the boats lay on the sand, so that nobody could", "Two", "x = "};
  for (int i = 0; i < 60; ++i) {
    const std::string& context = contexts[static_cast<std::size_t>(i / 20)];
    if (i % 5 == 0) {
      std::vector<int> ids;
      for (int k = 0; k <= i; ++k) ids.push_back((k * 37 + i) % 320);
      out += json{{"context_ids", ids}, {"continuation_ids", {i, 7, 300 - i}}}.dump() + "\n";
    } else {
      out +=
          json{{"context", context}, {"continuation", " cross " + std::to_string(i)}}.dump() + "\n";
    }
  }
  return out;
}

Outcome score(const std::string& lines, std::vector<std::string> more = {}) {
  Folder folder;
  std::vector<std::string> arguments = {"score", "-m", kModel, "--input",
                                        folder.write("s.jsonl", lines)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return herd(arguments);
}

// ---- score ----

TEST(CliScore, TheSameBytesAtEveryBatchSizeAndThreadCount) {
  const std::string input = score_lines();
  const Outcome one = score(input, {"--batch-size", "1"});
  ASSERT_EQ(one.status, 0) << one.err;
  ASSERT_EQ(lines(one.out).size(), 60u);
  for (const std::vector<std::string>& how :
       {std::vector<std::string>{"--batch-size", "7"},
        {"--batch-size", "32"},
        {},
        {"--batch-size", "32", "--isa", "scalar", "--threads", "1"}}) {
    const Outcome run = score(input, how);
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_TRUE(run.out == one.out) << (how.empty() ? "" : how[1]);
  }
}

TEST(CliScore, LogprobsAreThoseOfTheLogits) {
  const json context = {5, 6, 7}, continuation = {8, 9, 10, 11};
  const Outcome run =
      score(json{{"context_ids", context}, {"continuation_ids", continuation}}.dump());
  ASSERT_EQ(run.status, 0) << run.err;
  const auto line = nlohmann::ordered_json::parse(run.out);
  std::vector<std::string> keys;
  for (const auto& item : line.items()) keys.push_back(item.key());
  EXPECT_EQ(keys, std::vector<std::string>(
                      {"index", "logprob", "logprobs", "ids", "greedy", "all_greedy"}));
  EXPECT_EQ(line["ids"], continuation);
  const auto rows = logits_of(json::array({{5, 6, 7, 8, 9, 10, 11}}));
  double sum = 0;
  bool all = true;
  for (std::size_t i = 0; i < 4; ++i) {
    const auto id = continuation[i].get<std::size_t>();
    const double expected = logprob(rows[i + 2], id);
    sum += expected;
    EXPECT_FALSE(!(std::abs(line["logprobs"][i].get<double>() - expected) <= 1e-5));
    const auto& row = rows[i + 2];
    const bool greedy =
        std::max_element(row.begin(), row.end()) - row.begin() == static_cast<std::ptrdiff_t>(id);
    EXPECT_EQ(line["greedy"][i], greedy);
    all = all && greedy;
  }
  EXPECT_EQ(line["all_greedy"], all);
  EXPECT_FALSE(!(std::abs(line["logprob"].get<double>() - sum) <= 1e-4));
}

TEST(CliScore, TheModelsOwnAnswerIsGreedy) {
  const Outcome answer =
      herd({"generate", "-m", kModel, "-p", "Two boats", "-n", "8", "--ignore-eos", "--json"});
  const json said = json::parse(answer.out);
  const Outcome run =
      score(json{{"context_ids", said["prompt_ids"]}, {"continuation_ids", said["ids"]}}.dump());
  EXPECT_EQ(json::parse(run.out)["all_greedy"], true);
}

TEST(CliScore, TextIsEncodedAsOneAndStartsWithBosWhereTheFileSaysSo) {
  Folder folder;
  const std::string spm = data("tiny-mha-Q4_K_M.gguf");
  const std::string file = folder.write("s.jsonl",
                                        "{\"context\": \"\", \"continuation\": \"ab\"}\n"
                                        "{\"context\": \"ab\", \"continuation\": \" cd\"}\n");
  const Outcome run = herd({"score", "-m", spm, "--input", file});
  ASSERT_EQ(run.status, 0) << run.err;
  const auto got = json_lines(run.out);
  const auto ids = [&](const std::string& text) {
    const Outcome tokens = herd({"tokenize", "-m", spm, "--json"}, text);
    return json::parse(tokens.out)["ids"].get<std::vector<int>>();
  };
  EXPECT_EQ(got[0]["ids"].get<std::vector<int>>(), ids("ab"));  // after BOS alone
  std::vector<int> whole = ids("ab"), rest = got[1]["ids"];
  whole.insert(whole.end(), rest.begin(), rest.end());
  EXPECT_EQ(whole, ids("ab cd"));
  // Without BOS there is nothing before an empty context's continuation.
  const Outcome bare = score("{\"context\": \"\", \"continuation\": \"ab\"}");
  EXPECT_EQ(bare.status, 1);
  EXPECT_NE(bare.out.find("the context has no tokens"), std::string::npos) << bare.out;
}

TEST(CliScore, ABadLineFailsAlone) {
  const std::string good = "{\"context_ids\": [34, 36], \"continuation_ids\": [37]}";
  const std::vector<std::string> bad = {
      "not json",
      "[1]",
      "{\"context\": \"a\"}",
      "{\"context\": 5, \"continuation\": \"a\"}",
      "{\"context_ids\": [1, -2], \"continuation_ids\": [3]}",
      "{\"context_ids\": [1], \"continuation_ids\": [\"x\"]}",
      "{\"context_ids\": [], \"continuation_ids\": [3]}",
      "{\"context_ids\": [1], \"continuation_ids\": []}",
      "{\"context_ids\": [1, 320], \"continuation_ids\": [3]}",
      json{{"context_ids", std::vector<int>(2100, 7)}, {"continuation_ids", {3}}}.dump()};
  std::string text = good + "\n\n";
  for (const std::string& line : bad) text += line + "\n";
  const Outcome run = score(text + good);
  EXPECT_EQ(run.status, 1);
  EXPECT_NE(run.err.find("10 of 12 lines"), std::string::npos) << run.err;
  const auto got = json_lines(run.out);
  ASSERT_EQ(got.size(), bad.size() + 2);
  const json alone = json::parse(score(good).out);
  EXPECT_EQ(got.front()["logprobs"], alone["logprobs"]);
  EXPECT_EQ(got.back()["logprobs"], alone["logprobs"]);
  for (std::size_t i = 1; i <= bad.size(); ++i) {
    EXPECT_EQ(got[i]["index"], i);
    EXPECT_FALSE(got[i]["error"].get<std::string>().empty());
    EXPECT_FALSE(got[i].contains("logprob"));
  }
  EXPECT_EQ(got[1]["error"].get<std::string>().rfind("line 3: ", 0), 0u) << got[1]["error"];
  EXPECT_NE(got[9]["error"].get<std::string>().find("320"), std::string::npos);
  EXPECT_NE(got[10]["error"].get<std::string>().find("2101"), std::string::npos);
}

TEST(CliScore, NothingToScoreIsWrongUse) {
  EXPECT_EQ(score("\n").status, 2);
  const Outcome missing = herd({"score", "-m", kModel, "--input", "/nonexistent/f"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_EQ(lines(missing.err).size(), 1u);
}

// ---- perplexity ----

std::string prose() {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += "On day " + std::to_string(i) + " the ferry crossed the bay and came back late. ";
  return text;
}

Outcome perplexity(const std::string& text, std::vector<std::string> more,
                   const std::string& model = kModel) {
  Folder folder;
  std::vector<std::string> arguments = {"perplexity", "-m", model, "-f", folder.write("t", text)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return herd(arguments);
}

TEST(CliPerplexity, IsThatOfTheLogits) {
  const Outcome run = perplexity(prose(), {"--context", "100", "--tokens", "250", "--json"});
  ASSERT_EQ(run.status, 0) << run.err;
  const json got = json::parse(run.out);
  const json tokens = json::parse(herd({"tokenize", "-m", kModel, "--json"}, prose()).out)["ids"];
  std::vector<std::vector<std::size_t>> windows(3);
  for (std::size_t i = 0; i < 250; ++i) windows[i / 100].push_back(tokens[i]);
  const auto rows = logits_of(json(windows));
  double sum = 0;
  std::size_t row = 0;
  for (const auto& window : windows)
    for (std::size_t i = 0; i < window.size(); ++i, ++row)
      if (i + 1 < window.size()) sum -= logprob(rows[row], window[i + 1]);
  EXPECT_EQ(got["tokens"], 247);
  EXPECT_EQ(got["windows"], 3);
  EXPECT_FALSE(!(std::abs(got["nll"].get<double>() - sum / 247) <= 1e-5));
  EXPECT_FALSE(!(std::abs(got["perplexity"].get<double>() - std::exp(sum / 247)) <=
                 1e-4 * std::exp(sum / 247)));
}

TEST(CliPerplexity, TheSameBytesAtEveryBatchSize) {
  const auto run = [&](const std::string& batch) {
    const Outcome r = perplexity(prose(), {"--context", "64", "--batch-size", batch, "--json"});
    EXPECT_EQ(r.status, 0) << r.err;
    return r.out;
  };
  const std::string one = run("1");
  EXPECT_EQ(run("3"), one);
  EXPECT_EQ(run("16"), one);
}

TEST(CliPerplexity, EveryWindowBeginsWithBosWhereTheFileSaysSo) {
  const std::string spm = data("tiny-mha-Q4_K_M.gguf");
  const Outcome run = perplexity(prose(), {"--context", "51", "--tokens", "200", "--json"}, spm);
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(json::parse(run.out)["windows"], 4);
  EXPECT_EQ(json::parse(run.out)["tokens"], 200);
}

TEST(CliPerplexity, ATextTooShortAndAWrongContextAreNamed) {
  EXPECT_EQ(perplexity("", {}).status, 1);
  EXPECT_NE(perplexity("", {}).err.find("too few"), std::string::npos);
  const Outcome run = perplexity(prose(), {"--context", "5000"});
  EXPECT_EQ(run.status, 1);
  EXPECT_NE(run.err.find("2048"), std::string::npos) << run.err;
}

// ---- fidelity ----

Outcome fidelity(std::vector<std::string> more, const std::string& model = kModel) {
  std::vector<std::string> arguments = {"fidelity", "-m", model, "-f", data("prose.txt"), "--json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return herd(arguments);
}

std::vector<json> fidelity_results(const std::vector<std::string>& more,
                                   const std::string& model = kModel) {
  const Outcome run = fidelity(more, model);
  EXPECT_EQ(run.status, 0) << run.err;
  return run.status == 0 ? json::parse(run.out)["results"].get<std::vector<json>>()
                         : std::vector<json>(2);
}

TEST(CliFidelity, TheReferenceDeviceAndTheCpuAreOneInF32) {
  const std::vector<std::string> small = {"--tokens", "300",       "--context",
                                          "150",      "--kv-type", "f32"};
  for (const std::vector<std::string>& how :
       {std::vector<std::string>{"--device", "reference"}, {"--reference", "reference"}}) {
    std::vector<std::string> arguments = small;
    arguments.insert(arguments.end(), how.begin(), how.end());
    const json got = fidelity_results(arguments)[0];
    EXPECT_EQ(got["tokens"], 300);
    EXPECT_EQ(got["max_kl"], 0.0);
    EXPECT_EQ(got["max_logit_difference"], 0.0);
    EXPECT_EQ(got["nll_difference"], 0.0);
    EXPECT_EQ(got["same_top"], 1.0);
  }
}

TEST(CliFidelity, HalfPrecisionKeysCostALittle) {
  const json got = fidelity_results({"--tokens", "300"})[0];
  const double mean = got["mean_kl"], median = got["median_kl"], p99 = got["p99_kl"],
               most = got["max_kl"];
  EXPECT_GT(mean, 0.0);
  EXPECT_FALSE(!(mean <= 1e-5));
  EXPECT_LE(median, p99);
  EXPECT_LE(p99, most);
  EXPECT_GT(got["max_logit_difference"].get<double>(), 0.0);
}

TEST(CliFidelity, AnotherEnginesLogitsAreMeasuredTheSameWay) {
  Folder folder;
  const std::string ids = folder / "ids.json", other = folder / "other.f32";
  fidelity_results({"--tokens", "120", "--context", "50", "--ids-out", ids});
  const json windows = json::parse(folder.read("ids.json"));
  EXPECT_EQ(windows.size(), 3u);
  ASSERT_EQ(herd({"logits", "-m", kModel, "--ids", ids, "--out", other}).status, 0);
  const std::vector<std::string> how = {"--tokens", "120", "--context", "50", "--against", other};
  const auto got = fidelity_results(how);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[1]["name"], other);
  for (const char* key : {"tokens", "mean_kl", "p99_kl", "max_kl", "same_top", "nll_difference"})
    EXPECT_EQ(got[1][key], got[0][key]) << key;

  // A logit raised by 1: KL = log(1 - p + p e) - p, by hand.
  ASSERT_EQ(herd({"logits", "-m", kModel, "--ids", ids, "--kv-type", "f32", "--out", other}).status,
            0);
  std::string bytes = folder.read("other.f32");
  double expected = 0;
  const auto rows = logits_of(windows, kModel, {"--kv-type", "f32"});
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const double p = std::exp(logprob(rows[r], 7));
    expected += std::log(1 - p + p * std::exp(1.0)) - p;
    const float raised = rows[r][7] + 1.0f;
    std::memcpy(bytes.data() + 4 * (r * kVocab + 7), &raised, 4);
  }
  folder.write("other.f32", bytes);
  const double mean = fidelity_results(how)[1]["mean_kl"];
  expected /= static_cast<double>(rows.size());
  EXPECT_FALSE(!(std::abs(mean - expected) <= 1e-6 * expected + 1e-9)) << mean << " " << expected;
}

TEST(CliFidelity, AFileOfTheWrongSizeOrWithoutNumbersIsNamed) {
  Folder folder;
  const std::size_t whole = 40 * 4 * kVocab;
  const auto with = [&](const std::string& bytes) {
    return fidelity({"--tokens", "40", "--against", folder.write("other.f32", bytes)});
  };
  const Outcome cut = with(std::string(whole - 4, '\0'));
  EXPECT_EQ(cut.status, 1);
  EXPECT_NE(cut.err.find(std::to_string(whole)), std::string::npos) << cut.err;
  EXPECT_NE(cut.err.find(std::to_string(whole - 4)), std::string::npos) << cut.err;
  std::string nan(whole, '\0');
  nan[4 * kVocab * 17 + 2] = nan[4 * kVocab * 17 + 3] = '\xff';
  const Outcome bad = with(nan);
  EXPECT_EQ(bad.status, 1);
  EXPECT_NE(bad.err.find("row 17 is not finite"), std::string::npos) << bad.err;
}

TEST(CliFidelity, SmolLM2IsWithinTheStatedBounds) {
  const std::string model = std::string(HERD_DEMO_CACHE) + "/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "no demo model: scripts/demo brings it";
  const json got = fidelity_results({"--tokens", "2048"}, model)[0];
  EXPECT_EQ(got["tokens"], 2048);
  EXPECT_FALSE(!(got["mean_kl"].get<double>() <= 1e-5)) << got;
  EXPECT_FALSE(!(got["same_top"].get<double>() >= 0.998)) << got;
}

// ---- verify ----

TEST(CliVerify, RunsWhatIsHereButNoEmulatorUnlessAsked) {
  const Outcome run = herd({"verify", "-m", kModel, "--json"});
  ASSERT_EQ(run.status, 0) << run.err;
  std::set<std::string> devices;
  const json report = json::parse(run.out);
  for (const json& device : report["devices"]) devices.insert(device["device"]);
  EXPECT_TRUE(devices.contains("cpu") && devices.contains("reference"));
  EXPECT_FALSE(devices.contains("metal-emulated"));
}

TEST(CliVerify, KeepsThePromiseAndSaysSo) {
  const Outcome text = herd({"verify", "-m", kModel});
  EXPECT_EQ(text.status, 0) << text.out << text.err;
  for (const char* word : {"sha256", "batch of 5", "engine, preempted", "equal", "was kept in all"})
    EXPECT_NE(text.out.find(word), std::string::npos) << word << "\n" << text.out;
  const Outcome run = herd({"verify", "-m", kModel, "--devices", "cpu", "--json"});
  ASSERT_EQ(run.status, 0) << run.err;
  const json got = json::parse(run.out);
  EXPECT_EQ(got["kept"], true);
  ASSERT_EQ(got["devices"].size(), 1u);
  const std::string sha256 = got["devices"][0]["sha256"];
  EXPECT_EQ(sha256.size(), 64u);
  EXPECT_NE(text.out.find(sha256), std::string::npos);
  EXPECT_GE(got["cases"].size(), 12u);
  for (const json& c : got["cases"]) {
    EXPECT_EQ(c["kept"], true) << c;
    EXPECT_GT(c["tokens"].get<int>(), 0) << c;
    EXPECT_TRUE(c["first_difference"].is_null());
  }
}

TEST(CliVerify, TakesPromptsAndRefusesWhatCannotRun) {
  Folder folder;
  const std::string good = folder.write(
      "p.jsonl", "{\"prompt\": \"Hello there\"}\n{\"ids\": [5, 6, 7, 8]}\n{\"ids\": [9]}\n");
  const Outcome run =
      herd({"verify", "-m", kModel, "--devices", "cpu", "--prompts", good, "--json"});
  ASSERT_EQ(run.status, 0) << run.out << run.err;
  const json ids =
      json::parse(herd({"tokenize", "-m", kModel, "--json"}, "Hello there").out)["ids"];
  EXPECT_EQ(json::parse(run.out)["devices"][0]["tokens"], ids.size() + 4 + 1 + 3 * 16);
  const Outcome bad =
      herd({"verify", "-m", kModel, "--prompts", folder.write("b.jsonl", "{\"prompt\": 5}")});
  EXPECT_EQ(bad.status, 1);
  EXPECT_NE(bad.err.find("line 1"), std::string::npos) << bad.err;
  EXPECT_EQ(herd({"verify", "-m", kModel, "--devices", "cpu,abacus"}).status, 2);
  EXPECT_EQ(herd({"verify", "-m", kModel, "--quick", "--full"}).status, 2);
}

// ---- bench --html ----

TEST(CliBench, WritesAPageThatNeedsNothingElse) {
  Folder folder;
  const std::string page = folder / "b.html";
  const Outcome run = herd({"bench", "-m", kModel, "-p", "16", "-n", "4", "-b", "1,3", "--repeats",
                            "1", "--json", "--html", page});
  ASSERT_EQ(run.status, 0) << run.err;
  const std::string html = folder.read("b.html");
  EXPECT_EQ(html.rfind("<!doctype html>", 0), 0u);
  EXPECT_EQ(count(html, "<svg"), 4u);
  EXPECT_EQ(count(html, "</svg>"), 4u);
  for (const char* outside :
       {"http://", "https://", "<script", "<link", "src=", "url(", "nan", "inf"})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  const json got = json::parse(run.out);
  ASSERT_EQ(got["memory"].size(), 2u);
  EXPECT_GT(got["memory"][1]["kv"].get<std::int64_t>(), got["memory"][0]["kv"].get<std::int64_t>());
  EXPECT_EQ(count(html, "<tr>"), 5u);  // a head and four rows
}

}  // namespace
}  // namespace herd::test
