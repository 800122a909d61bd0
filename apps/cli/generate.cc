// herd generate: answers to many prompts in one ragged batch.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "common.h"
#include "inputs.h"
#include "sampling_flags.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  std::vector<std::string> prompts, stops;
  std::vector<herd::TokenId> stop_ids;
  std::string prompts_file, schema_file;
  int n = 128, logprobs = -1;
  bool prompt_logprobs = false, ignore_eos = false, json = false, json_object = false;
  SamplingFlags sampling;
  herd::AnswerFormat format;
};

herd::Result<std::vector<Entry>> collect(const Flags& flags) {
  std::vector<Entry> entries;
  for (const std::string& prompt : flags.prompts) {
    entries.emplace_back();
    entries.back().request.prompt = prompt;
  }
  if (flags.prompts_file.empty()) return entries;
  const auto text = read_file(flags.prompts_file);
  if (!text.ok()) return text.error();
  for (Entry& entry : parse_prompts(*text)) entries.push_back(std::move(entry));
  return entries;
}

/// Error: a schema file that cannot be read.
herd::Status read_format(Flags& flags) {
  if (flags.json_object) flags.format.kind = herd::AnswerFormat::Kind::json_object;
  if (flags.schema_file.empty()) return {};
  auto text = read_file(flags.schema_file);
  if (!text.ok()) return text.error();
  flags.format = {herd::AnswerFormat::Kind::json_schema, *std::move(text)};
  return {};
}

void apply_flags(const Flags& flags, std::vector<Entry>& entries) {
  for (Entry& entry : entries) {
    herd::GenerateRequest& r = entry.request;
    r.max_tokens = flags.n;
    r.sampling = flags.sampling.params;
    r.stop = flags.stops;
    r.stop_ids = flags.stop_ids;
    r.ignore_end = flags.ignore_eos;
    r.logprobs = flags.logprobs;
    r.prompt_logprobs = flags.prompt_logprobs;
    r.format = flags.format;
  }
}

/// Context and KV room for just this work; a text's tokens are guessed from its bytes.
void size_to_work(const Flags& flags, const std::vector<Entry>& entries, std::int32_t trained,
                  herd::ModelOptions& options) {
  if (flags.model.batch_size == 0)
    options.batch_size =
        static_cast<std::int32_t>(std::clamp<std::ptrdiff_t>(std::ssize(entries), 1, 16));
  std::vector<std::int64_t> needs;
  for (const Entry& entry : entries) {
    // A token stands for at least one byte; one more for BOS and one for a space in front.
    const std::int64_t prompt =
        std::ssize(entry.request.ids) + std::ssize(entry.request.prompt) + 2;
    needs.push_back(std::min<std::int64_t>(prompt + flags.n, trained));
  }
  std::sort(needs.rbegin(), needs.rend());
  if (flags.model.context == 0)
    options.context = static_cast<std::int32_t>(std::max<std::int64_t>(1, needs.front()));
  options.kv_tokens = 0;
  for (std::size_t i = 0; i < needs.size() && i < static_cast<std::size_t>(options.batch_size); ++i)
    options.kv_tokens += std::clamp<std::int64_t>(needs[i], 1, options.context);
}

nlohmann::ordered_json logprobs_json(const std::vector<herd::TokenLogprob>& list) {
  auto out = nlohmann::ordered_json::array();
  for (const auto& item : list) {
    auto top = nlohmann::ordered_json::array();
    for (const auto& [id, logprob] : item.top) top.push_back({{"id", id}, {"logprob", logprob}});
    out.push_back({{"id", item.id}, {"logprob", item.logprob}, {"top", top}});
  }
  return out;
}

void print_json(const Flags& flags, const std::vector<herd::GenerateResult>& results) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    const herd::GenerateResult& r = results[i];
    nlohmann::ordered_json line;
    line["index"] = i;
    line["prompt_ids"] = r.prompt_ids;
    line["ids"] = r.ids;
    line["text"] = r.text;
    line["finish_reason"] = herd::to_string(r.finish_reason);
    line["logprobs"] = nullptr;
    if (flags.logprobs >= 0) line["logprobs"] = logprobs_json(r.logprobs);
    if (flags.prompt_logprobs) line["prompt_logprobs"] = r.prompt_logprobs;
    if (!r.error.empty()) line["error"] = r.error;
    std::cout << dump(line) << "\n";
  }
}

void print_text(const std::vector<Entry>& entries,
                const std::vector<herd::GenerateResult>& results) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    std::string prompt = entries[i].request.prompt.substr(0, 60);
    std::replace(prompt.begin(), prompt.end(), '\n', ' ');
    std::cout << fmt::format("== {} {} [{}]\n{}\n", i, prompt,
                             herd::to_string(results[i].finish_reason),
                             results[i].error.empty() ? results[i].text : results[i].error);
  }
}

/// What a person sees while it runs: the text itself for one prompt, else a line of counts.
class Watcher {
 public:
  Watcher(std::size_t prompts, bool stream)
      : progress_("generating"), prompts_(prompts), stream_(stream) {}

  void on_event(const herd::GenerateEvent& event) {
    if (event.id >= 0) ++tokens_;
    if (event.finish_reason != herd::FinishReason::none) ++finished_;
    if (stream_) {
      std::cout << event.text << std::flush;
      return;
    }
    progress_.status(fmt::format("{} of {} prompts done, {} tokens, {:.0f} tok/s", finished_,
                                 prompts_, tokens_, rate(seconds_now() - started_)));
  }
  void finish() {
    progress_.clear();
    const double seconds = seconds_now() - started_;
    std::cerr << fmt::format(
        "{} prompt{}, {} tokens in {:.2f} s: {:.1f} tok/s, reading the prompts included\n",
        prompts_, prompts_ == 1 ? "" : "s", tokens_, seconds, rate(seconds));
  }

 private:
  double rate(double seconds) const {
    return static_cast<double>(tokens_) / std::max(1e-9, seconds);
  }

  Progress progress_;
  std::size_t prompts_, finished_ = 0;
  std::int64_t tokens_ = 0;
  bool stream_;
  double started_ = seconds_now();
};

/// Runs the entries that are requests; results in the order of all entries.
herd::Result<std::vector<herd::GenerateResult>> run_all(herd::LlamaModel& model,
                                                        const std::vector<Entry>& entries,
                                                        Watcher& watcher) {
  std::vector<herd::GenerateRequest> requests;
  std::vector<std::size_t> where;
  std::vector<herd::GenerateResult> results(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    results[i].error = entries[i].error;
    results[i].finish_reason = herd::FinishReason::error;
    if (!entries[i].error.empty()) continue;
    requests.push_back(entries[i].request);
    where.push_back(i);
  }
  if (requests.empty()) return results;
  herd::GenerateOptions options;
  options.on_event = [&](const herd::GenerateEvent& event) { watcher.on_event(event); };
  options.cancelled = interrupted;
  auto ran = herd::generate(model, requests, options);
  if (!ran.ok()) return ran.error();
  for (std::size_t i = 0; i < where.size(); ++i) results[where[i]] = std::move((*ran)[i]);
  return results;
}

int show(const Flags& flags, const std::vector<Entry>& entries,
         const std::vector<herd::GenerateResult>& results, bool streamed) {
  if (streamed)
    std::cout << "\n";
  else if (flags.json)
    print_json(flags, results);
  else
    print_text(entries, results);
  int code = kOk;
  for (std::size_t i = 0; i < results.size(); ++i)
    if (results[i].finish_reason == herd::FinishReason::error)
      code = fail(fmt::format("prompt {}: {}", i, results[i].error));
  return interrupted() ? kInterrupted : code;
}

int run(Flags& flags) {
  if (herd::Status status = flags.sampling.parse_biases(); !status.ok())
    return fail(status.error().message, kWrongUse);
  if (herd::Status status = read_format(flags); !status.ok()) return fail(status.error());
  auto entries = collect(flags);
  if (!entries.ok()) return fail(entries.error());
  if (entries->empty()) return fail("no prompts given: use -p TEXT or --prompts FILE", kWrongUse);
  apply_flags(flags, *entries);
  herd::ModelOptions options = flags.model.options();
  const auto plan = herd::LlamaModel::plan(flags.model.path, options);
  if (!plan.ok()) return fail(plan.error());
  size_to_work(flags, *entries, plan->context, options);
  auto model = load(flags.model.path, options);
  if (!model.ok()) return fail(model.error());

  catch_interrupt();
  const bool stream = entries->size() == 1 && !flags.json;
  Watcher watcher(entries->size(), stream);
  const auto results = run_all(*model, *entries, watcher);
  if (!results.ok()) return fail(results.error());
  watcher.finish();
  show_op_times(*model);
  return show(flags, *entries, *results, stream);
}

}  // namespace

void add_generate(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("generate", "answers to many prompts in one ragged batch");
  flags->model.add_path(*command);
  command
      ->add_option("-p,--prompt", flags->prompts,
                   "a prompt, may be repeated; special tokens in it are parsed")
      ->allow_extra_args(false);
  command->add_option(
      "--prompts", flags->prompts_file,
      "JSONL file, a line {\"prompt\": TEXT} or {\"ids\": [...]} each; - for stdin");
  command->add_option("-n,--max-tokens", flags->n, "most tokens per answer")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  flags->sampling.add(*command);
  command->add_option("--stop", flags->stops, "text that ends an answer, may be repeated")
      ->allow_extra_args(false);
  command->add_option("--stop-id", flags->stop_ids, "token id that ends an answer, may be repeated")
      ->allow_extra_args(false);
  auto* object = command->add_flag("--json-object", flags->json_object, "answers are JSON objects");
  command
      ->add_option("--json-schema", flags->schema_file,
                   "answers are JSON as this file's JSON Schema says (docs/json_schema.md)")
      ->excludes(object);
  command->add_flag("--ignore-eos", flags->ignore_eos, "go on past the model's own end token");
  command
      ->add_option("--logprobs", flags->logprobs,
                   "log-probability of each token and of the N likeliest (with --json)")
      ->check(CLI::Range(0, 1000));
  command->add_flag("--prompt-logprobs", flags->prompt_logprobs,
                    "also of the prompt's tokens after the first (with --json)");
  command->add_flag(
      "--json", flags->json,
      "one line per prompt, in order: index, prompt_ids, ids, text, finish_reason, logprobs");
  flags->model.add_device(*command);
  flags->model.add_sizes(*command);
  flags->model.add_profile(*command);
  command->footer(
      "A prompt that cannot run ends alone with finish_reason \"error\"; the others go on, and the "
      "exit\n"
      "status is 1. Ctrl-C prints what there is so far.\n"
      "Examples:\n"
      "  herd generate -m model.gguf -p 'Once upon a time' -n 64\n"
      "  herd generate -m model.gguf --prompts prompts.jsonl --temperature 0.8 --seed 7 --json");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
