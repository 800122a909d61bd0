// herd fidelity: how far a device, or another engine, is from computing in f32.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>

#include "common.h"
#include "divergence.h"
#include "windows.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string text, reference = "cpu", against, ids_out;
  std::int64_t most = 2048;
  bool json = false;
};

using Rows = std::vector<std::vector<float>>;  // [tokens of a window][vocab]

/// One window's logits. Error: also where one is not finite, naming the token.
herd::Status rows_of(herd::LlamaModel& model, const std::vector<herd::TokenId>& window,
                     const std::function<void(std::size_t, std::span<const float>)>& on_row) {
  std::optional<std::size_t> bad;
  const herd::Status status =
      model.forward_all(std::vector<std::vector<herd::TokenId>>{window},
                        [&](std::size_t, std::size_t token, std::span<const float> logits) {
                          if (!all_finite(logits)) bad = bad.value_or(token);
                          on_row(token, logits);
                        });
  if (!status.ok() || !bad) return status;
  return {herd::Code::internal,
          fmt::format("{}: the logits after token {} are not finite", model.info().backend, *bad)};
}

/// Another engine's logits, a row at a time.
class LogitsFile {
 public:
  /// Error: not_found; corrupt, if the size is not that of `tokens` rows.
  herd::Status open(const std::string& path, std::int64_t tokens, std::int32_t vocab) {
    path_ = path;
    in_.open(path, std::ios::binary | std::ios::ate);
    if (!in_) return {herd::Code::not_found, path + ": cannot be read"};
    const auto bytes = static_cast<std::int64_t>(in_.tellg());
    if (bytes != tokens * vocab * 4)
      return {herd::Code::corrupt,
              fmt::format("{}: {} bytes; {} tokens of {} float32 logits are {}", path, bytes,
                          tokens, vocab, tokens * vocab * 4)};
    in_.seekg(0);
    row_.resize(static_cast<std::size_t>(vocab));
    return {};
  }
  /// The next row, valid until the next call. Errors: io; corrupt, if a value is not finite.
  herd::Result<std::span<const float>> next() {
    in_.read(reinterpret_cast<char*>(row_.data()), static_cast<std::streamsize>(row_.size() * 4));
    if (!in_) return herd::Error{herd::Code::io, path_ + ": cannot be read"};
    if (!all_finite(row_))
      return herd::Error{herd::Code::corrupt, fmt::format("{}: row {} is not finite", path_, at_)};
    ++at_;
    return std::span<const float>(row_);
  }

 private:
  std::string path_;
  std::ifstream in_;
  std::vector<float> row_;
  std::int64_t at_ = 0;
};

/// What is held against the reference, in the order of the text.
struct Compared {
  std::string name;
  std::vector<TokenDivergence> tokens;
};

class Fidelity {
 public:
  Fidelity(const Windows& windows, herd::LlamaModel& reference, herd::LlamaModel& device)
      : windows_(windows), reference_(reference), device_(device) {}

  herd::Status add_file(const std::string& path) {
    other_.emplace();
    std::int64_t tokens = 0;
    for (const auto& window : windows_.ids) tokens += std::ssize(window);
    return other_->open(path, tokens, reference_.info().vocab);
  }
  /// Compares every token. Errors: those of the models and the file; cancelled.
  herd::Status run(Compared& device, Compared& other) {
    Progress progress("comparing");
    for (const auto& window : windows_.ids) {
      Rows expected(window.size());
      const auto next = [&](std::size_t t) { return t + 1 < window.size() ? window[t + 1] : -1; };
      herd::Status status = rows_of(reference_, window, [&](std::size_t t, auto logits) {
        expected[t].assign(logits.begin(), logits.end());
        step(progress);
      });
      if (!status.ok()) return status;
      status = rows_of(device_, window, [&](std::size_t t, auto logits) {
        device.tokens.push_back(compare(expected[t], logits, next(t)));
        step(progress);
      });
      if (!status.ok()) return status;
      for (std::size_t t = 0; other_ && t < window.size(); ++t) {
        const auto logits = other_->next();
        if (!logits.ok()) return logits.status();
        other.tokens.push_back(compare(expected[t], *logits, next(t)));
      }
      if (interrupted()) return {herd::Code::cancelled, "stopped"};
    }
    return {};
  }

 private:
  void step(Progress& progress) {
    progress.update(++done_, 2 * (windows_.scored() + std::ssize(windows_.ids)));
  }

  const Windows& windows_;
  herd::LlamaModel& reference_;
  herd::LlamaModel& device_;
  std::optional<LogitsFile> other_;
  std::int64_t done_ = 0;
};

void print_json(const Windows& windows, const herd::ModelInfo& info, const std::string& reference,
                const std::vector<Compared>& all) {
  nlohmann::ordered_json out;
  out["model"] = info.name;
  out["reference"] = reference;
  out["context"] = windows.context;
  out["windows"] = windows.ids.size();
  out["results"] = nlohmann::ordered_json::array();
  for (const Compared& compared : all) {
    const DivergenceSummary s = summarise(compared.tokens);
    out["results"].push_back({{"name", compared.name},
                              {"tokens", s.tokens},
                              {"mean_kl", s.mean_kl},
                              {"median_kl", s.median_kl},
                              {"p99_kl", s.p99_kl},
                              {"max_kl", s.max_kl},
                              {"same_top", s.same_top},
                              {"nll_difference", s.nll_difference},
                              {"max_logit_difference", s.max_logit}});
  }
  std::cout << dump(out) << "\n";
}

void print_text(const Windows& windows, const herd::ModelInfo& info, const std::string& reference,
                const std::vector<Compared>& all) {
  std::cout << fmt::format("{}: {} tokens in {} windows of {}\nreference: {}\n\n", info.name,
                           all[0].tokens.size(), windows.ids.size(), windows.context, reference);
  std::cout << fmt::format("{:<36} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}\n", "", "mean KL",
                           "median", "p99", "max", "same top", "NLL diff.", "logits to");
  for (const Compared& compared : all) {
    const DivergenceSummary s = summarise(compared.tokens);
    std::cout << fmt::format(
        "{:<36} {:>9.2e} {:>9.2e} {:>9.2e} {:>9.2e} {:>7.2f} % {:>+10.1e} {:>9.2e}\n",
        compared.name, s.mean_kl, s.median_kl, s.p99_kl, s.max_kl, 100 * s.same_top,
        s.nll_difference, s.max_logit);
  }
}

std::string name_of(const herd::LlamaModel& model, const std::string& kv_type) {
  return fmt::format("{}, {} KV", model.info().backend, kv_type);
}

/// The windows as `herd logits --ids` takes them, so that others can be fed the same tokens.
herd::Status write_ids(const std::string& path, const Windows& windows) {
  std::ofstream out(path, std::ios::binary);
  out << nlohmann::json(windows.ids).dump() << "\n";
  out.close();
  if (!out) return {herd::Code::io, path + ": cannot be written"};
  return {};
}

int run(Flags& flags) {
  const auto windows = cut_windows(flags.model.path, flags.text, flags.model.context, flags.most);
  if (!windows.ok()) return fail(windows.error());
  if (!flags.ids_out.empty())
    if (const auto written = write_ids(flags.ids_out, *windows); !written.ok())
      return fail(written.error());
  flags.model.context = windows->context;
  flags.model.batch_size = 1;
  ModelFlags exact = flags.model;
  exact.device = flags.reference;
  exact.kv_type = "f32";
  if (exact.device != flags.model.device) exact.isa = "auto";
  std::vector<herd::LlamaModel> models;
  for (const ModelFlags* each : {&exact, &flags.model}) {
    const auto options = size_to_work(*each, {windows->context}, 1);
    if (!options.ok()) return fail(options.error());
    auto model = load(each->path, *options);
    if (!model.ok()) return fail(model.error());
    models.push_back(std::move(*model));
  }

  catch_interrupt();
  Fidelity fidelity(*windows, models[0], models[1]);
  std::vector<Compared> all = {{name_of(models[1], flags.model.kv_type), {}}, {flags.against, {}}};
  if (!flags.against.empty())
    if (const auto opened = fidelity.add_file(flags.against); !opened.ok())
      return fail(opened.error());
  const herd::Status status = fidelity.run(all[0], all[1]);
  if (!status.ok()) return interrupted() ? kInterrupted : fail(status.error());
  if (flags.against.empty()) all.pop_back();
  const std::string reference = name_of(models[0], "f32");
  (flags.json ? print_json : print_text)(*windows, models[0].info(), reference, all);
  return kOk;
}

}  // namespace

void add_fidelity(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "fidelity", "how far a device, or another engine, is from computing in f32");
  flags->model.add_path(*command);
  command->add_option("-f,--file", flags->text, "text file; - for stdin")->required();
  command->add_option("--tokens", flags->most, "no more tokens of the text than so many; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--context", flags->model.context, "tokens in a window; 0: 512")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--reference", flags->reference,
                   "what computes in f32: cpu, or its slow twin, the same bits")
      ->check(CLI::IsMember({"cpu", "reference"}))
      ->capture_default_str();
  command->add_option("--against", flags->against,
                      "another engine's logits: float32 [token][vocab], window after window");
  command->add_option("--ids-out", flags->ids_out,
                      "write the windows' tokens, [[ids], ...], to feed the other engine with");
  command->add_flag("--json", flags->json, "for machines: results[] with mean_kl, same_top ...");
  flags->model.add_device(*command);
  command->footer(
      "The reference computes with the exact values of the file's weights and with f32 keys and "
      "values:\n"
      "the cpu device with --kv-type f32, which equals the plain loops of the reference device bit "
      "for\n"
      "bit. Activations are f32; products with quantised weights take them with 21 bits. KL is "
      "that of\n"
      "the device's next-token distribution from the reference's, in nats; \"NLL diff.\" the mean "
      "of how\n"
      "much worse it foretells the text.\n"
      "Both models and one window's logits are held in memory.\n"
      "Examples:\n"
      "  herd fidelity -m model.gguf -f book.txt --device cuda\n"
      "  herd fidelity -m model.gguf -f book.txt --ids-out ids.json --against other.f32");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
