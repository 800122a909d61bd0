// herd score: log-likelihoods of continuations, many in one ragged batch.
#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <optional>

#include "common.h"
#include "herd/score.h"
#include "herd/vocabulary.h"
#include "inputs.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string input;
};

/// Everything to score, and where a line cannot be, why: in its entry's error.
herd::Result<std::vector<herd::ScoreRequest>> make_requests(const std::string& model,
                                                            std::vector<ScoreEntry>& entries) {
  std::optional<herd::Vocabulary> vocabulary;
  std::vector<herd::ScoreRequest> requests(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    ScoreEntry& entry = entries[i];
    herd::ScoreRequest& request = requests[i];
    if (!entry.error.empty()) continue;
    if (entry.text) {
      if (!vocabulary) {
        auto opened = herd::Vocabulary::from_gguf(model);
        if (!opened.ok()) return opened.error();
        vocabulary = std::move(*opened);
      }
      request = herd::encode_score(*vocabulary, entry.context, entry.continuation);
    } else {
      request.ids = entry.context_ids;
      request.first = static_cast<std::int32_t>(request.ids.size());
      request.ids.insert(request.ids.end(), entry.continuation_ids.begin(),
                         entry.continuation_ids.end());
    }
    if (request.first == 0)
      entry.error = "the context has no tokens: nothing to score the continuation after";
    else if (request.first == std::ssize(request.ids))
      entry.error = "the continuation has no tokens";
  }
  return requests;
}

/// Prints results in the order of the lines, each as soon as those before it are there.
class Printer {
 public:
  Printer(const std::vector<ScoreEntry>& entries, const std::vector<herd::ScoreRequest>& requests)
      : entries_(entries), requests_(requests), lines_(entries.size()) {
    for (std::size_t i = 0; i < entries.size(); ++i)
      if (!entries[i].error.empty()) put(i, error_line(i, entries[i].error));
  }
  void take(std::size_t i, const herd::ScoreResult& result) {
    put(i, result.error.empty() ? line(i, result) : error_line(i, result.error));
  }
  int errors() const { return errors_; }

 private:
  std::string error_line(std::size_t i, const std::string& why) {
    ++errors_;
    return dump({{"index", i}, {"error", why}});
  }
  std::string line(std::size_t i, const herd::ScoreResult& result) const {
    nlohmann::ordered_json out;
    out["index"] = i;
    out["logprob"] = result.sum;
    out["logprobs"] = result.logprobs;
    out["ids"] = std::vector<herd::TokenId>(requests_[i].ids.begin() + requests_[i].first,
                                            requests_[i].ids.end());
    out["greedy"] = nlohmann::ordered_json::array();
    for (const std::uint8_t g : result.greedy) out["greedy"].push_back(g != 0);
    out["all_greedy"] = result.all_greedy();
    return dump(out);
  }
  void put(std::size_t i, std::string text) {
    lines_[i] = std::move(text);
    for (; next_ < lines_.size() && !lines_[next_].empty(); ++next_) {
      std::cout << lines_[next_] << "\n";
      lines_[next_].clear();
      lines_[next_].shrink_to_fit();
    }
    std::cout.flush();
  }

  const std::vector<ScoreEntry>& entries_;
  const std::vector<herd::ScoreRequest>& requests_;
  std::vector<std::string> lines_;  // made and not yet printed
  std::size_t next_ = 0;
  int errors_ = 0;
};

int run(const Flags& flags) {
  const auto text = read_file(flags.input);
  if (!text.ok()) return fail(text.error());
  std::vector<ScoreEntry> entries = parse_scores(*text);
  if (entries.empty()) return fail(flags.input + ": no lines to score", kWrongUse);
  const auto requests = make_requests(flags.model.path, entries);
  if (!requests.ok()) return fail(requests.error());
  std::vector<herd::ScoreRequest> sound;
  std::vector<std::size_t> where;
  std::vector<std::int64_t> lengths;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i].error.empty()) continue;
    where.push_back(i);
    sound.push_back((*requests)[i]);
    lengths.push_back(std::ssize(sound.back().ids));
    total += lengths.back();
  }
  const auto options = size_to_work(flags.model, lengths, 16);
  if (!options.ok()) return fail(options.error());
  auto model = load(flags.model.path, *options);
  if (!model.ok()) return fail(model.error());

  catch_interrupt();
  Printer printer(entries, *requests);
  Progress progress("scoring");
  herd::ScoreOptions how;
  how.cancelled = interrupted;
  how.on_progress = [&](std::int64_t tokens) { progress.update(tokens, total); };
  how.on_result = [&](std::size_t i, const herd::ScoreResult& r) { printer.take(where[i], r); };
  const auto results = herd::score(*model, sound, how);
  progress.clear();
  if (!results.ok()) return fail(results.error());
  if (interrupted()) return kInterrupted;
  if (printer.errors() > 0)
    return fail(
        fmt::format("{} of {} lines could not be scored", printer.errors(), entries.size()));
  return kOk;
}

}  // namespace

void add_score(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("score", "log-likelihoods of continuations, in JSON lines");
  flags->model.add_path(*command);
  command
      ->add_option("--input", flags->input,
                   "JSONL file, a line {\"context\": TEXT, \"continuation\": TEXT} or "
                   "{\"context_ids\": [...], \"continuation_ids\": [...]} each; - for stdin")
      ->required();
  flags->model.add_device(*command);
  flags->model.add_sizes(*command);
  command->footer(
      "One JSON line for each line, in order: index, logprob (the sum), logprobs (of each token), "
      "ids\n"
      "(of the continuation), greedy (whether each token was the likeliest), all_greedy. A line "
      "that\n"
      "cannot be scored gets {\"index\", \"error\"}, the others go on, and the exit status is 1.\n"
      "The output is the same, byte for byte, at any --batch-size. Contexts that begin alike are\n"
      "computed once: keep lines with one context together.\n"
      "Context and continuation are encoded as one text; a token that reaches over the border "
      "counts\n"
      "to the continuation. A continuation usually begins with a space.\n"
      "Example: echo '{\"context\": \"The capital of France is\", \"continuation\": \" Paris\"}' | "
      "herd score -m model.gguf --input -");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
