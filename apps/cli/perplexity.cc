// herd perplexity: how well a model foretells a text.
#include <fmt/format.h>

#include <cmath>
#include <iostream>
#include <memory>

#include "common.h"
#include "herd/score.h"
#include "windows.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string text;
  std::int64_t most = 0;
  bool json = false;
};

struct Likelihood {
  std::int64_t tokens = 0, greedy = 0;
  double nll = 0, standard_error = 0;  // per token, in nats
};

/// In the order of the text, so that the sums do not depend on who was through first.
Likelihood sum_up(const std::vector<herd::ScoreResult>& results) {
  Likelihood all;
  double sum = 0, squares = 0;
  for (const herd::ScoreResult& result : results)
    for (std::size_t i = 0; i < result.logprobs.size(); ++i) {
      const double nll = -static_cast<double>(result.logprobs[i]);
      sum += nll;
      squares += nll * nll;
      all.greedy += result.greedy[i];
      ++all.tokens;
    }
  const auto n = static_cast<double>(all.tokens);
  all.nll = sum / n;
  if (all.tokens > 1)
    all.standard_error = std::sqrt(std::max(0.0, squares / n - all.nll * all.nll) / (n - 1));
  return all;
}

void print(const Flags& flags, const Windows& windows, const Likelihood& all,
           const herd::ModelInfo& info) {
  const double greedy = static_cast<double>(all.greedy) / static_cast<double>(all.tokens);
  if (flags.json) {
    nlohmann::ordered_json out;
    out["model"] = info.name;
    out["backend"] = info.backend;
    out["kv_type"] = flags.model.kv_type;
    out["context"] = windows.context;
    out["windows"] = windows.ids.size();
    out["tokens"] = all.tokens;
    out["nll"] = all.nll;
    out["nll_standard_error"] = all.standard_error;
    out["perplexity"] = std::exp(all.nll);
    out["greedy"] = greedy;
    std::cout << dump(out) << "\n";
    return;
  }
  std::cout << fmt::format(
      "perplexity  {:.4f}\nnll         {:.6f} per token, standard error {:.6f}\n"
      "likeliest   {:.2f} % of tokens\nscored      {} tokens in {} windows of {}\n",
      std::exp(all.nll), all.nll, all.standard_error, 100 * greedy, all.tokens, windows.ids.size(),
      windows.context);
}

int run(Flags& flags) {
  const auto windows = cut_windows(flags.model.path, flags.text, flags.model.context, flags.most);
  if (!windows.ok()) return fail(windows.error());
  std::vector<herd::ScoreRequest> requests;
  std::vector<std::int64_t> lengths;
  for (const auto& ids : windows->ids) {
    requests.push_back({ids, 1});
    lengths.push_back(std::ssize(ids));
  }
  flags.model.context = windows->context;
  const auto options = size_to_work(flags.model, lengths, 4);
  if (!options.ok()) return fail(options.error());
  auto model = load(flags.model.path, *options);
  if (!model.ok()) return fail(model.error());

  catch_interrupt();
  Progress progress("scoring");
  herd::ScoreOptions how;
  how.cancelled = interrupted;
  const std::int64_t total = windows->scored() + std::ssize(windows->ids);
  how.on_progress = [&](std::int64_t tokens) { progress.update(tokens, total); };
  const auto results = herd::score(*model, requests, how);
  progress.clear();
  if (!results.ok()) return fail(results.error());
  if (interrupted()) return kInterrupted;
  for (std::size_t i = 0; i < results->size(); ++i)
    if (!(*results)[i].error.empty())
      return fail(fmt::format("window {}: {}", i, (*results)[i].error));
  print(flags, *windows, sum_up(*results), model->info());
  return kOk;
}

}  // namespace

void add_perplexity(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("perplexity", "how well the model foretells a text");
  flags->model.add_path(*command);
  command->add_option("-f,--file", flags->text, "text file; - for stdin")->required();
  command->add_option("--tokens", flags->most, "no more tokens of the text than so many; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json,
                    "for machines: nll, nll_standard_error, perplexity, tokens, greedy ...");
  flags->model.add_device(*command);
  command
      ->add_option("--batch-size", flags->model.batch_size,
                   "windows that run at once, 0: up to 4; no figure depends on it")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_option("--context", flags->model.context, "tokens in a window; 0: 512")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->footer(
      "The text is cut into windows, one after the other, and every token that has something "
      "before "
      "it\n"
      "in its window counts; where the vocabulary adds BOS, a window begins with it. nll is the "
      "mean\n"
      "negative log-likelihood in nats, perplexity is e to the nll.\n"
      "Example: herd perplexity -m model.gguf -f book.txt --context 1024");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
