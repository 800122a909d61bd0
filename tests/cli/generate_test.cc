// herd generate: every prompt's answer, whatever happens to the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "cli/run_herd.h"

namespace herd::test {
namespace {

using nlohmann::json;

const std::string kModel = data("tiny-gqa-Q4_K_M.gguf");

std::vector<std::string> command(const std::vector<std::string>& more) {
  std::vector<std::string> out = {"generate", "-m", kModel};
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

/// The answers of a run that must succeed.
std::vector<json> answers(const std::vector<std::string>& more) {
  std::vector<std::string> all = command(more);
  all.push_back("--json");
  const Outcome run = herd(all);
  EXPECT_EQ(run.status, 0) << run.err;
  return json_lines(run.out);
}

/// The sequences the golden logits are of, as a prompts file.
json golden_sequences() {
  std::ifstream in(data("tiny-gqa-Q4_K_M.json"));
  return json::parse(in)["sequences"];
}
std::string prompts_file(const Folder& folder) {
  std::string text;
  for (const json& ids : golden_sequences()) text += json{{"ids", ids}}.dump() + "\n";
  return folder.write("prompts.jsonl", text);
}

TEST(CliGenerate, TheFirstTokenIsTheLikeliestOfTheGoldenLogits) {
  Folder folder;
  const auto got = answers({"--prompts", prompts_file(folder), "-n", "1", "--ignore-eos"});
  const std::string bytes = [] {
    std::ifstream in(data("tiny-gqa-Q4_K_M.logits.f32"), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  constexpr std::size_t kVocab = 320;
  std::size_t rows = 0, i = 0;
  for (const json& ids : golden_sequences()) {
    rows += ids.size();
    float row[kVocab];
    std::memcpy(row, bytes.data() + (rows - 1) * sizeof row, sizeof row);
    float* best = std::max_element(row, row + kVocab);
    const auto id = best - row;
    const float top = *best;
    *best = -INFINITY;
    const float margin = top - *std::max_element(row, row + kVocab);
    ASSERT_LT(i, got.size());
    EXPECT_EQ(got[i]["index"], i);
    EXPECT_EQ(got[i]["prompt_ids"], ids);
    if (margin > 0.02f) {
      EXPECT_EQ(got[i]["ids"], json::array({id})) << "margin " << margin;
    }
    ++i;
  }
}

TEST(CliGenerate, EveryLineHasTheDocumentedKeysInOrder) {
  const Outcome run =
      herd(command({"-p", "Hello", "-p", "Good morning to you", "-n", "5", "--json"}));
  ASSERT_EQ(run.status, 0) << run.err;
  ASSERT_EQ(lines(run.out).size(), 2u);
  std::size_t index = 0;
  for (const std::string& line : lines(run.out)) {
    const auto answer = nlohmann::ordered_json::parse(line);
    std::vector<std::string> keys;
    for (const auto& item : answer.items()) keys.push_back(item.key());
    EXPECT_EQ(keys, std::vector<std::string>(
                        {"index", "prompt_ids", "ids", "text", "finish_reason", "logprobs"}));
    EXPECT_EQ(answer["index"], index++);
    EXPECT_TRUE(answer["logprobs"].is_null());
    EXPECT_TRUE(answer["finish_reason"] == "length" || answer["finish_reason"] == "stop") << line;
  }
}

TEST(CliGenerate, AnAnswerIsTheSameInAnyCompany) {
  Folder folder;
  const std::string file = prompts_file(folder);
  const std::vector<std::string> how = {"-n",     "12", "--temperature", "0.9",
                                        "--seed", "3",  "--ignore-eos"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), how.begin(), how.end());
    return answers(more);
  };
  const auto together = with({"--prompts", file});
  ASSERT_EQ(together.size(), golden_sequences().size());
  EXPECT_EQ(with({"--prompts", file, "--batch-size", "1"}), together);
  EXPECT_EQ(with({"--prompts", file, "--batch-size", "2", "--threads", "1", "--isa", "scalar"}),
            together);
  EXPECT_EQ(with({"--prompts", file, "--context", "300"}), together);
  for (std::size_t i = 0; i < together.size(); ++i) {
    const std::string line = json{{"ids", together[i]["prompt_ids"]}}.dump();
    const auto alone = with({"--prompts", folder.write("one.jsonl", line)});
    ASSERT_EQ(alone.size(), 1u);
    EXPECT_EQ(alone[0]["ids"], together[i]["ids"]) << i;
  }
  bool other = false;
  const auto reseeded = answers(
      {"--prompts", file, "-n", "12", "--temperature", "0.9", "--seed", "4", "--ignore-eos"});
  for (std::size_t i = 0; i < together.size(); ++i)
    other = other || reseeded[i]["ids"] != together[i]["ids"];
  EXPECT_TRUE(other);
}

TEST(CliGenerate, TextGetsBosAsTheFileSaysAndIdsStayAsTheyAre) {
  Folder folder;
  const std::string file = folder.write("p.jsonl", "{\"prompt\": \"ab\"}\n\n{\"ids\": [5, 6]}\n");
  const auto run = [&](const std::string& model) {
    const Outcome r =
        herd({"generate", "-m", data(model), "-p", "ab", "--prompts", file, "-n", "1", "--json"});
    EXPECT_EQ(r.status, 0) << r.err;
    return json_lines(r.out);
  };
  const auto spm = run("tiny-mha-Q4_K_M.gguf"), bpe = run("tiny-gqa-Q4_K_M.gguf");
  ASSERT_EQ(spm.size(), 3u);  // -p first, then the file's; the blank line counts for nothing
  ASSERT_EQ(bpe.size(), 3u);
  EXPECT_EQ(spm[0]["prompt_ids"][0], 1);
  EXPECT_EQ(spm[0]["prompt_ids"], spm[1]["prompt_ids"]);
  EXPECT_NE(bpe[0]["prompt_ids"][0], 1);
  EXPECT_EQ(spm[2]["prompt_ids"], json({5, 6}));
  EXPECT_EQ(bpe[2]["prompt_ids"], json({5, 6}));
}

TEST(CliGenerate, ABadPromptFailsAloneAndTheOthersAreWhole) {
  Folder folder;
  const std::string good = "{\"ids\": [34, 36, 37]}",
                    long_ids = json(std::vector<int>(2100, 7)).dump();
  const std::vector<std::string> bad = {"not json",
                                        "[1, 2]",
                                        "{\"text\": \"x\"}",
                                        "{\"ids\": [1, \"x\"]}",
                                        "{\"ids\": []}",
                                        "{\"ids\": [1, -5]}",
                                        "{\"ids\": [1, 320]}",
                                        "{\"prompt\": 5}",
                                        "{\"ids\": " + long_ids + "}"};
  std::string text = good + "\n";
  for (const std::string& line : bad) text += line + "\n";
  const std::string file = folder.write("p.jsonl", text + good);  // no newline at the end
  const Outcome run = herd(command({"--prompts", file, "-n", "6", "--json"}));
  EXPECT_EQ(run.status, 1);
  const auto got = json_lines(run.out);
  ASSERT_EQ(got.size(), bad.size() + 2);
  const auto alone = answers({"--prompts", folder.write("one.jsonl", good), "-n", "6"});
  EXPECT_EQ(got.front()["ids"], alone[0]["ids"]);
  EXPECT_EQ(got.back()["ids"], alone[0]["ids"]);
  for (std::size_t i = 1; i <= bad.size(); ++i) {
    SCOPED_TRACE(bad[i - 1].substr(0, 40));
    EXPECT_EQ(got[i]["index"], i);
    EXPECT_EQ(got[i]["finish_reason"], "error");
    EXPECT_FALSE(got[i]["error"].get<std::string>().empty());
    EXPECT_EQ(got[i]["ids"], json::array());
  }
  EXPECT_NE(got[7]["error"].get<std::string>().find("320"), std::string::npos);
  EXPECT_NE(got[9]["error"].get<std::string>().find("2100"), std::string::npos);
  EXPECT_NE(got[9]["error"].get<std::string>().find("2048"), std::string::npos) << got[9]["error"];
}

TEST(CliGenerate, NoPromptsIsOneLineAndWrongUse) {
  Folder folder;
  for (const std::string text : {"", "\n \n"}) {
    const Outcome run = herd(command({"--prompts", folder.write("p.jsonl", text)}));
    EXPECT_EQ(run.status, 2);
    EXPECT_EQ(run.out, "");
    EXPECT_EQ(lines(run.err).size(), 1u) << run.err;
    EXPECT_EQ(run.err.rfind("herd: ", 0), 0u) << run.err;
  }
  const Outcome missing = herd(command({"--prompts", folder / "none.jsonl"}));
  EXPECT_EQ(missing.status, 1);
  EXPECT_NE(missing.err.find("none.jsonl"), std::string::npos) << missing.err;
}

TEST(CliGenerate, TextModePrintsTheTextOnStdoutAndTalkOnStderr) {
  const auto got = answers({"-p", "Hello", "-p", "Good day", "-n", "8"});
  const Outcome one = herd(command({"-p", "Hello", "-n", "8"}));
  EXPECT_EQ(one.status, 0);
  EXPECT_EQ(one.out, got[0]["text"].get<std::string>() + "\n");
  EXPECT_NE(one.err.find("tok/s"), std::string::npos) << one.err;
  EXPECT_EQ(one.err.find('\r'), std::string::npos);  // no progress where nobody watches
  const Outcome two = herd(command({"-p", "Hello", "-p", "Good day", "-n", "8"}));
  const std::size_t first = two.out.find(got[0]["text"].get<std::string>());
  ASSERT_NE(first, std::string::npos) << two.out;
  EXPECT_NE(two.out.find(got[1]["text"].get<std::string>(), first), std::string::npos) << two.out;
}

TEST(CliGenerate, AnswersEndAtStopIdsStopTextAndLength) {
  const auto plain = answers({"-p", "Hello", "-n", "10", "--ignore-eos"})[0];
  ASSERT_EQ(plain["ids"].size(), 10u);
  EXPECT_EQ(plain["finish_reason"], "length");
  const auto ids = plain["ids"].get<std::vector<int>>();
  const auto at = std::find(ids.begin(), ids.end(), ids[4]) - ids.begin();
  const auto stopped =
      answers({"-p", "Hello", "-n", "10", "--ignore-eos", "--stop-id", std::to_string(ids[4])})[0];
  EXPECT_EQ(stopped["finish_reason"], "stop");
  EXPECT_EQ(stopped["ids"].get<std::vector<int>>(),
            std::vector<int>(ids.begin(), ids.begin() + at + 1));

  const std::string text = plain["text"];
  const std::size_t letter = text.find_last_of("abcdefghijklmnopqrstuvwxyz");
  ASSERT_NE(letter, std::string::npos) << text;
  const std::string stop = text.substr(letter, 1);
  const auto cut = answers({"-p", "Hello", "-n", "10", "--ignore-eos", "--stop", stop})[0];
  EXPECT_EQ(cut["finish_reason"], "stop");
  EXPECT_EQ(cut["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(answers({"-p", "Hello", "-n", "0"})[0]["ids"], json::array());
}

TEST(CliGenerate, BiasAndLogprobsAreShown) {
  const auto biased =
      answers({"-p", "Hello", "-n", "3", "--ignore-eos", "--logit-bias", "77=1000"})[0];
  EXPECT_EQ(biased["ids"], json({77, 77, 77}));
  const auto got = answers(
      {"-p", "Hello", "-n", "3", "--ignore-eos", "--logprobs", "2", "--prompt-logprobs"})[0];
  ASSERT_EQ(got["logprobs"].size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    const json& entry = got["logprobs"][i];
    EXPECT_EQ(entry["id"], got["ids"][i]);
    EXPECT_LT(entry["logprob"].get<double>(), 0.0);
    ASSERT_EQ(entry["top"].size(), 2u);
  }
  EXPECT_EQ(got["prompt_logprobs"].size(), got["prompt_ids"].size() - 1);
}

// ---- Ctrl-C ----

TEST(CliGenerate, CtrlCEndsAStreamWithWhatThereIs) {
  Process run(command(
      {"-p", "Hello", "-n", "2000", "--ignore-eos", "--device", "reference", "--threads", "1"}));
  for (int i = 0; i < 2000 && run.out_so_far().empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const std::string before = run.out_so_far();
  ASSERT_FALSE(before.empty());
  run.send(SIGINT);
  ASSERT_TRUE(run.ends_within(20));
  const Outcome outcome = run.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_EQ(outcome.out.substr(0, before.size()), before);
}

TEST(CliGenerate, CtrlCPrintsALineForEveryPrompt) {
  Folder folder;
  std::string text;
  constexpr std::size_t kPrompts = 200;
  for (std::size_t i = 0; i < kPrompts; ++i) text += "{\"ids\": [34, 35, 36]}\n";
  Process run(command({"--prompts", folder.write("p.jsonl", text), "-n", "2000", "--ignore-eos",
                       "--batch-size", "2", "--device", "reference", "--threads", "1", "--json"}));
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  run.send(SIGINT);
  ASSERT_TRUE(run.ends_within(20));
  const Outcome outcome = run.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  const auto got = json_lines(outcome.out);
  ASSERT_EQ(got.size(), kPrompts);
  EXPECT_FALSE(got[0]["ids"].empty());
  EXPECT_EQ(got.back()["finish_reason"], "cancelled");
  EXPECT_EQ(got.back()["ids"], json::array());
}

// ---- formats ----

TEST(CliGenerate, AnswersAreWhatTheSchemaFileAsks) {
  Folder folder;
  const std::string schema = folder.write("schema.json", R"({"type": "object", "properties": {"n":
      {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"]})");
  const auto got = answers({"-p", "a", "-p", "b", "-n", "60", "--json-schema", schema});
  ASSERT_EQ(got.size(), 2u);
  for (const json& answer : got) {
    EXPECT_EQ(answer["finish_reason"], "stop");
    const json value = json::parse(answer["text"].get<std::string>());
    EXPECT_TRUE(value["n"] >= 0 && value["n"] <= 9 && value.size() == 1) << value;
  }
  const auto object = answers({"-p", "a", "-n", "3", "--json-object"});
  EXPECT_EQ(object[0]["text"].get<std::string>().find_first_not_of(" \n\t"),
            object[0]["text"].get<std::string>().find('{'));
}

TEST(CliGenerate, ASchemaThatCannotBeHeldIsNamed) {
  Folder folder;
  const std::string schema = folder.write("s.json", R"({"type": "string", "pattern": "x"})");
  const Outcome refused = herd(command({"-p", "a", "--json-schema", schema}));
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.err.find("keyword \"pattern\" is not supported"), std::string::npos);
  EXPECT_EQ(herd(command({"-p", "a", "--json-schema", folder / "none"})).status, 1);
  EXPECT_EQ(herd(command({"-p", "a", "--json-schema", schema, "--json-object"})).status, 2);
}

}  // namespace
}  // namespace herd::test
