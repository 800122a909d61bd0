// The program as a whole: exit statuses, error lines, and the commands that do not generate.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "cli/run_herd.h"

namespace herd::test {
namespace {

using nlohmann::json;

const std::string kModel = data("tiny-gqa-Q4_K_M.gguf");
const std::vector<std::string> kCommands = {
    "generate",   "tokenize",   "render", "logits",   "inspect", "plan",          "bench",
    "make-model", "perplexity", "score",  "fidelity", "verify",  "metal-selftest"};

/// One line on stderr, "herd: ...", with `part` in it; nothing on stdout.
void expect_one_error(const Outcome& run, int status, const std::string& part) {
  EXPECT_EQ(run.status, status) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err.rfind("herd: ", 0), 0u) << run.err;
  EXPECT_EQ(count(run.err, "herd: "), 1u) << run.err;
  EXPECT_EQ(lines(run.err).size(), 1u) << run.err;
  EXPECT_NE(run.err.find(part), std::string::npos) << run.err << "\nwanted: " << part;
}

json read_json(const std::string& path) {
  std::ifstream in(path);
  return json::parse(in);
}

std::vector<float> read_floats(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(in), {});
  std::vector<float> out(bytes.size() / 4);
  std::memcpy(out.data(), bytes.data(), out.size() * 4);
  return out;
}

// ---- help and wrong use ----

TEST(Cli, HelpNamesEveryCommandAndTheExitStatuses) {
  const Outcome run = herd({"--help"});
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(run.err, "");
  for (const std::string& command : kCommands)
    EXPECT_NE(run.out.find(command), std::string::npos) << command;
  for (const char* status : {"0", "1", "2", "130"})
    EXPECT_NE(run.out.find(status), std::string::npos);
}

TEST(Cli, NothingAtAllShowsTheHelpAndIsWrongUse) {
  const Outcome run = herd({});
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err, herd({"--help"}).out);
}

TEST(Cli, ChatAndServeNameTheirTemplateAlike) {
  for (const std::string command : {"chat", "serve"})
    for (const std::string option : {"--chat-template", "--template"})
      expect_one_error(herd({command, "-m", kModel, option, "/absent.jinja"}), 1, "/absent.jinja");
}

TEST(Cli, AnUnknownCommandIsNamed) {
  expect_one_error(herd({"genrate", "-m", kModel}), 2, "no command 'genrate'; there are generate");
}

TEST(Cli, EveryCommandHasHelpWithAnExample) {
  for (const std::string& command : kCommands) {
    SCOPED_TRACE(command);
    const Outcome run = herd({command, "--help"});
    EXPECT_EQ(run.status, 0);
    EXPECT_EQ(run.err, "");
    EXPECT_NE(run.out.find("herd " + command), std::string::npos) << run.out;
  }
}

TEST(Cli, WrongUseIsExitStatus2AndNamesTheThing) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"generate", "-m", kModel, "-p", "x", "--frobnicate"}, "--frobnicate"},
      {{"generate", "-p", "x"}, "model"},
      {{"generate", "-m", kModel, "-p", "x", "--device", "abacus"}, "abacus"},
      {{"generate", "-m", kModel, "-p", "x", "-n", "many"}, "many"},
      {{"generate", "-m", kModel, "-p", "x", "--batch-size", "5000"}, "5000"},
      {{"generate", "-m", kModel, "-p", "x", "--logit-bias", "7:1"}, "7:1"},
      {{"generate", "-m", kModel}, "prompt"},
      {{"bench", "-m", kModel, "-b", "0"}, "0"},
      {{"logits", "-m", kModel, "--out", "x"}, "--ids"}};
  for (const auto& [arguments, part] : cases) {
    const Outcome run = herd(arguments);
    EXPECT_EQ(run.status, 2) << part << ": " << run.err;
    EXPECT_EQ(run.out, "") << part;
    EXPECT_EQ(run.err.rfind("herd: ", 0), 0u) << run.err;
    EXPECT_NE(run.err.find(part), std::string::npos) << run.err << "\nwanted: " << part;
  }
}

// ---- files ----

TEST(Cli, AMissingModelIsOneLineNamingIt) {
  Folder folder;
  const std::string none = folder / "none.gguf", ids = folder.write("ids.json", "[[1]]");
  expect_one_error(herd({"generate", "-m", none, "-p", "x"}), 1, none);
  expect_one_error(herd({"tokenize", "-m", none}), 1, none);
  expect_one_error(herd({"logits", "-m", none, "--ids", ids, "--out", folder / "out"}), 1, none);
  expect_one_error(herd({"inspect", none}), 1, none);
  expect_one_error(herd({"plan", none}), 1, none);
  expect_one_error(herd({"bench", "-m", none}), 1, none);
}

TEST(Cli, AFileThatIsNoGgufIsOneLineNamingIt) {
  Folder folder;
  const std::string bad =
      folder.write("bad.gguf", "this is no model, only text that is long enough");
  const std::string empty = folder.write("empty.gguf", "");
  expect_one_error(herd({"generate", "-m", bad, "-p", "x"}), 1, bad);
  expect_one_error(herd({"generate", "-m", empty, "-p", "x"}), 1, empty);
  expect_one_error(herd({"inspect", bad}), 1, bad);
  expect_one_error(herd({"plan", bad}), 1, bad);
}

TEST(Cli, ADeviceThatIsNotThereIsRefused) {
  const Outcome run = herd({"generate", "-m", kModel, "-p", "x", "--device", "cuda"});
  EXPECT_EQ(run.status, 1);
  EXPECT_NE(run.err.find("cuda"), std::string::npos) << run.err;
}

TEST(Cli, MetalSelftestWritesAReport) {
  const Folder folder;
  const Outcome run =
      herd({"metal-selftest", "--device", "metal-emulated", "--report", folder / "report.txt"});
  if (run.err.find("no Metal emulator") != std::string::npos) GTEST_SKIP() << run.err;
  EXPECT_EQ(run.status, 0) << run.err;
  const std::string report = folder.read("report.txt");
  EXPECT_NE(report.find("checks passed"), std::string::npos) << report;
  EXPECT_EQ(report.find("FAILED"), std::string::npos) << report;
}

// ---- tokenize ----

TEST(Cli, TokenizeGivesTheGoldenIdsAndTheWayBack) {
  const std::string vocabulary = data("smollm2-vocab.gguf");
  const json golden = read_json(data("tokens-smollm2.json"));
  std::size_t checked = 0;
  for (std::size_t i = 0; i < golden.size(); i += golden.size() / 8) {
    const std::string text = golden[i]["text"];
    SCOPED_TRACE(text);
    const Outcome there = herd({"tokenize", "-m", vocabulary, "--json"}, text);
    ASSERT_EQ(there.status, 0) << there.err;
    const json result = json::parse(there.out);
    EXPECT_EQ(result["ids"], golden[i]["ids"]);
    EXPECT_EQ(result["pieces"].size(), result["ids"].size());
    EXPECT_EQ(herd({"tokenize", "-m", vocabulary, "--detokenize"}, there.out).out, text);
    EXPECT_EQ(herd({"tokenize", "-m", vocabulary, "--detokenize"}, result["ids"].dump()).out, text);
    ++checked;
  }
  EXPECT_GE(checked, 8u);
}

TEST(Cli, TokenizeCountsEveryByteOfStdin) {
  const std::string vocabulary = data("smollm2-vocab.gguf");
  const std::string texts[] = {"a\n", "a", std::string("\0a\r\n\n", 5), "\x80 ok \xe2\x82",
                               "\xf0\x9f\x98\x80"};
  for (const std::string& text : texts) {
    const Outcome there = herd({"tokenize", "-m", vocabulary, "--json"}, text);
    ASSERT_EQ(there.status, 0) << there.err;
    const json result = json::parse(there.out);  // also where pieces are no UTF-8
    EXPECT_EQ(result["pieces"].size(), result["ids"].size());
    EXPECT_EQ(herd({"tokenize", "-m", vocabulary, "--detokenize"}, there.out).out, text);
  }
  EXPECT_EQ(herd({"tokenize", "-m", vocabulary}, "don't can't WON'T").out,
            "12420 982 416 982 408 2154 23 68\n");
}

TEST(Cli, TokenizeBosAndSpecialTokensAsAsked) {
  const auto ids = [](const std::vector<std::string>& more, const std::string& text) {
    std::vector<std::string> arguments = {"tokenize", "-m", data("smollm2-vocab.gguf"), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json::parse(herd(arguments, text).out)["ids"].get<std::vector<int>>();
  };
  EXPECT_EQ(ids({}, "<|im_start|>"), std::vector<int>({1}));
  EXPECT_EQ(ids({"--bos"}, "a"), std::vector<int>({1, 81}));
  EXPECT_GT(ids({"--no-special"}, "<|im_start|>").size(), 3u);
  EXPECT_EQ(ids({}, ""), std::vector<int>());
}

TEST(Cli, DetokenizeRefusesWhatIsNoListOfKnownIds) {
  const std::vector<std::string> command = {"tokenize", "-m", data("smollm2-vocab.gguf"),
                                            "--detokenize"};
  expect_one_error(herd(command, "[1, 999999]"), 1, "999999");
  expect_one_error(herd(command, "[1, \"x\"]"), 1, "x");
  expect_one_error(herd(command, "{\"pieces\": []}"), 1, "ids");
  const Outcome long_word = herd(command, std::string(100000, 'x'));
  expect_one_error(long_word, 1, "is no token id");
  EXPECT_LT(long_word.err.size(), 200u);
}

/// A GGUF without tensors: a chat template and one token, which is BOS.
std::string chat_file(const std::string& chat_template) {
  const auto number = [](std::uint64_t value, std::size_t bytes) {
    return std::string(reinterpret_cast<const char*>(&value), bytes);
  };
  const auto text = [&](const std::string& t) { return number(t.size(), 8) + t; };
  constexpr std::uint64_t kU32 = 4, kString = 8, kArray = 9;
  return "GGUF" + number(3, 4) + number(0, 8) + number(3, 8) +                         //
         text("tokenizer.chat_template") + number(kString, 4) + text(chat_template) +  //
         text("tokenizer.ggml.tokens") + number(kArray, 4) + number(kString, 4) + number(1, 8) +
         text("<s>") +  //
         text("tokenizer.ggml.bos_token_id") + number(kU32, 4) + number(0, 4);
}

TEST(Cli, RenderTakesTheFilesTemplateAndTokens) {
  Folder folder;
  const std::string chat = folder.write(
      "chat.gguf", chat_file("{{ bos_token }}{% for m in messages %}{{ m }}{% endfor %}"));
  const Outcome of_file = herd({"render", "-m", chat}, R"({"messages": ["é", 1.50]})");
  EXPECT_EQ(of_file.status, 0) << of_file.err;
  EXPECT_EQ(of_file.out, "<s>é1.5");
  const Outcome of_case = herd({"render", "-m", chat}, R"({"messages": [], "bos_token": "B"})");
  EXPECT_EQ(of_case.out, "B");
  expect_one_error(herd({"render", "-m", chat}, "{"), 1, "stdin: not valid JSON");
}

TEST(Cli, DeeplyNestedJsonIsOneLineNotACrash) {
  for (const std::size_t depth : {65u, 200u, 300000u}) {
    SCOPED_TRACE(depth);
    Folder folder;
    const std::string nested = std::string(depth, '[') + std::string(depth, ']');
    expect_one_error(herd({"tokenize", "-m", kModel, "--detokenize"}, nested), 1, "no token id");
    const std::string ids = folder.write("ids.json", nested);
    expect_one_error(herd({"logits", "-m", kModel, "--ids", ids, "--out", folder / "out"}), 1, ids);
    const std::string prompts = folder.write("p.jsonl", "{\"ids\": [" + nested + "]}");
    const Outcome run = herd({"generate", "-m", kModel, "--prompts", prompts});
    EXPECT_EQ(run.status, 1);
    EXPECT_NE(run.err.find("line 1: must be"), std::string::npos) << run.err;
    const std::string chat = folder.write("chat.gguf", chat_file("{{ bos_token }}"));
    expect_one_error(herd({"render", "-m", chat}, "{\"messages\": " + nested + "}"), 1, "stdin");
  }
}

// ---- logits ----

TEST(Cli, LogitsAreTheGoldenOnes) {
  for (const std::string name : {"tiny-gqa-Q4_K_M", "tiny-mha-Q4_K_M"}) {
    SCOPED_TRACE(name);
    Folder folder;
    const json golden = read_json(data(name + ".json"));
    const std::string ids = folder.write("ids.json", golden["sequences"].dump());
    const Outcome run = herd({"logits", "-m", data(name + ".gguf"), "--ids", ids, "--out",
                              folder / "out.f32", "--kv-type", "f32"});
    ASSERT_EQ(run.status, 0) << run.err;
    EXPECT_EQ(run.out, "");
    const std::vector<float> got = read_floats(folder / "out.f32");
    const std::vector<float> wanted = read_floats(data(name + ".logits.f32"));
    ASSERT_EQ(got.size(), wanted.size());
    double worst = 0, sum = 0, squares = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::fabs(double{got[i]} - wanted[i]));
      ASSERT_TRUE(std::isfinite(got[i])) << i;
      sum += wanted[i], squares += double{wanted[i]} * wanted[i];
    }
    const double n = static_cast<double>(got.size()),
                 deviation = std::sqrt(squares / n - sum / n * sum / n);
    EXPECT_FALSE(!(worst <= 5e-4 * deviation)) << worst << " of " << deviation;
    EXPECT_EQ(folder.files(), 2u);  // no temporary file is left
  }
}

TEST(Cli, LogitsLeaveNoFileBehindWhenTheyFail) {
  Folder folder;
  const auto run = [&](const std::string& ids) {
    return herd({"logits", "-m", kModel, "--ids", folder.write("ids.json", ids), "--out",
                 folder / "out.f32"});
  };
  expect_one_error(run("[[1, 2], [3, 320]]"), 1, "320");
  expect_one_error(run("[[1, -2]]"), 1, "-2");
  expect_one_error(run("{\"ids\": []}"), 1, "ids.json");
  expect_one_error(run("[[1, 2"), 1, "ids.json");
  expect_one_error(run(json(std::vector<std::vector<int>>{std::vector<int>(2049, 5)}).dump()), 1,
                   "2048");
  EXPECT_EQ(folder.files(), 1u);
}

// ---- inspect, plan, make-model ----

TEST(Cli, InspectListsMetadataAndTensors) {
  const Outcome run = herd({"inspect", kModel, "--json"});
  ASSERT_EQ(run.status, 0) << run.err;
  const json file = json::parse(run.out);
  EXPECT_EQ(file["version"], 3);
  EXPECT_EQ(file["file_bytes"], std::filesystem::file_size(kModel));
  EXPECT_EQ(file["tensors"].size(), 20u);
  const json& first = file["tensors"][0];
  for (const char* key : {"name", "type", "shape", "bytes"})
    EXPECT_TRUE(first.contains(key)) << key;
  std::int64_t bytes = 0;
  for (const json& tensor : file["tensors"]) bytes += tensor["bytes"].get<std::int64_t>();
  EXPECT_GT(bytes, 400'000);
  EXPECT_LT(bytes, static_cast<std::int64_t>(std::filesystem::file_size(kModel)));
  EXPECT_GE(file["metadata"].size(), 19u);
  const auto value = [&](const std::string& key) {
    for (const json& pair : file["metadata"])
      if (pair["key"] == key) return pair["value"];
    return json();
  };
  EXPECT_EQ(value("general.architecture"), "llama");
  EXPECT_TRUE(value("llama.block_count").is_number_unsigned());
  EXPECT_TRUE(value("llama.attention.layer_norm_rms_epsilon").is_number_float());
  const json tokens = value("tokenizer.ggml.tokens");  // whole, not a sample of it
  ASSERT_TRUE(tokens.is_array());
  EXPECT_EQ(tokens.size(), value("tokenizer.ggml.token_type").size());

  const Outcome text = herd({"inspect", kModel});
  EXPECT_EQ(text.status, 0);
  for (const char* part :
       {"general.architecture", "llama.block_count", "token_embd.weight", "smollm"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part;
}

TEST(Cli, InspectEscapesControlCharactersInNames) {
  const auto number = [](std::uint64_t value, std::size_t bytes) {
    return std::string(reinterpret_cast<const char*>(&value), bytes);
  };
  const auto text = [&](const std::string& t) { return number(t.size(), 8) + t; };
  std::string bytes = "GGUF" + number(3, 4) + number(1, 8) + number(1, 8);
  bytes += text("key\n\x1b[2J") + number(4, 4) + number(7, 4);
  bytes += text("tensor\n\x1b[2J") + number(1, 4) + number(8, 8) + number(0, 4) + number(0, 8);
  bytes.resize((bytes.size() + 31) / 32 * 32 + 32);
  Folder folder;
  const std::string model = folder.write("m.gguf", bytes);
  const Outcome run = herd({"inspect", model});
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out.find('\x1b'), std::string::npos);
  for (const char* part : {"key\\x0a\\x1b[2J ", "tensor\\x0a\\x1b[2J "})
    EXPECT_NE(run.out.find(part), std::string::npos) << part << "\n" << run.out;
  const json whole = json::parse(herd({"inspect", model, "--json"}).out);
  EXPECT_EQ(whole["metadata"][0]["key"], "key\n\x1b[2J");
}

TEST(Cli, PlanAddsUp) {
  const auto plan = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"plan", kModel, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome run = herd(arguments);
    EXPECT_EQ(run.status, 0) << run.err;
    return json::parse(run.out);
  };
  const json small = plan({"--batch-size", "2", "--context", "64"});
  std::int64_t sum = 0;
  for (const char* term : {"weights", "kv", "activations", "scratch", "runtime"})
    sum += small[term].get<std::int64_t>();
  EXPECT_EQ(small["total"], sum);
  EXPECT_EQ(small["context"], 64);
  EXPECT_EQ(small["batch_size"], 2);
  EXPECT_EQ(small["kv"].get<std::int64_t>(),
            small["kv_per_token"].get<std::int64_t>() * small["kv_tokens"].get<std::int64_t>());
  const json wide = plan({"--batch-size", "8", "--context", "64", "--kv-type", "f32"});
  EXPECT_EQ(wide["weights"], small["weights"]);
  EXPECT_GT(wide["kv"].get<std::int64_t>(), 4 * small["kv"].get<std::int64_t>());
  expect_one_error(herd({"plan", kModel, "--context", "4096"}), 1, "2048");
}

TEST(Cli, MakeModelWritesTheSameRunnableFileForTheSameSeed) {
  Folder folder;
  const auto make = [&](const std::string& name, const std::string& seed) {
    const Outcome run =
        herd({"make-model", "--shape", "tiny", "--type", "Q4_K_M", "--seed", seed, folder / name});
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_EQ(run.out, "");
    return folder.read(name);
  };
  const std::string first = make("a.gguf", "1");
  EXPECT_EQ(first.substr(0, 4), "GGUF");
  EXPECT_TRUE(first == make("b.gguf", "1"));
  EXPECT_FALSE(first == make("c.gguf", "2"));
  const Outcome run = herd(
      {"generate", "-m", folder / "a.gguf", "-p", "Hello", "-n", "4", "--ignore-eos", "--json"});
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(json::parse(run.out)["ids"].size(), 4u);
  EXPECT_EQ(folder.files(), 3u);

  const Outcome unknown =
      herd({"make-model", "--shape", "colossus", "--type", "Q8_0", folder / "d.gguf"});
  EXPECT_NE(unknown.status, 0);
  EXPECT_NE(unknown.err.find("colossus"), std::string::npos) << unknown.err;
  EXPECT_NE(unknown.err.find("llama-3-8b"), std::string::npos) << unknown.err;
  EXPECT_EQ(folder.files(), 3u);
}

TEST(Cli, TheExampleProgramAnswersItsPromptsTheSameWayTwice) {
  const auto run = [](const std::vector<std::string>& arguments) {
    return Process(arguments, "", HERD_EXAMPLE).wait();
  };
  const std::string model = data("tiny-mha-Q4_K_M.gguf");
  const Outcome both = run({model, "Hello", "Good day"});
  ASSERT_EQ(both.status, 0) << both.err;
  EXPECT_EQ(both.out.rfind("> Hello\n", 0), 0u) << both.out;
  const Outcome alone = run({model, "Hello"});
  EXPECT_GT(alone.out.size(), 12u);
  EXPECT_EQ(both.out.substr(0, alone.out.size()), alone.out);
  EXPECT_NE(both.err.find("[1] token"), std::string::npos);
  EXPECT_EQ(run({}).status, 2);
  EXPECT_EQ(run({data("none.gguf")}).status, 1);
}

}  // namespace
}  // namespace herd::test
