// herd verify: the promise, checked on the user's own model and machine.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "common.h"
#include "herd/vocabulary.h"
#include "inputs.h"
#include "verify_cases.h"

namespace cli {
namespace {

constexpr std::int32_t kAnswer = 16;

struct Flags {
  ModelFlags model;
  std::vector<std::string> devices;
  std::string prompts;
  bool quick = false, full = false, json = false;
};

/// The prompts of a file as work. Error: names the line that cannot be used.
herd::Result<std::vector<Sequence>> read_work(const Flags& flags, std::int32_t context) {
  std::vector<Sequence> work;
  if (flags.prompts.empty()) return work;
  const auto text = read_file(flags.prompts);
  if (!text.ok()) return text.error();
  const auto vocabulary = herd::Vocabulary::from_gguf(flags.model.path);
  for (const Entry& entry : parse_prompts(*text)) {
    const auto bad = [&](const std::string& why) {
      return herd::Error{herd::Code::invalid_argument,
                         fmt::format("{}: prompt {}: {}", flags.prompts, work.size(), why)};
    };
    if (!entry.error.empty()) return bad(entry.error);
    Sequence sequence;
    sequence.ids = entry.request.ids;
    if (sequence.ids.empty()) {
      if (!vocabulary.ok()) return vocabulary.error();
      sequence.ids = vocabulary->encode(entry.request.prompt, vocabulary->adds_bos());
    }
    sequence.prompt = static_cast<std::int32_t>(sequence.ids.size());
    sequence.answer = kAnswer;
    if (sequence.ids.empty()) return bad("has no tokens");
    if (sequence.prompt + kAnswer > context)
      return bad(fmt::format("{} tokens and {} of an answer are more than the context of {}",
                             sequence.prompt, kAnswer, context));
    work.push_back(std::move(sequence));
  }
  if (work.empty())
    return herd::Error{herd::Code::invalid_argument, flags.prompts + ": no prompts"};
  return work;
}

std::string describe(const Difference& d) {
  return fmt::format("sequence {}, token {}: logit {} is {:.9g}, alone {:.9g}; f32 margin {:.3g}",
                     d.sequence, d.token, d.logit, d.got, d.want, d.margin);
}

void print_text(const VerifyReport& report) {
  for (const DeviceResult& device : report.devices) {
    std::cout << fmt::format("{}: {}\n", device.device, device.backend);
    if (!device.sha256.empty())
      std::cout << fmt::format("  sha256 of all logits, {} tokens alone: {}\n", device.tokens,
                               device.sha256);
    if (!device.absent.empty())
      std::cout << fmt::format("  not on this machine: {}\n", fmt::join(device.absent, ", "));
  }
  std::cout << fmt::format("\n{:<15} {:<25} {:>8} {:>8}  {}\n", "device", "case", "tokens",
                           "seconds", "bits");
  for (const CaseResult& c : report.cases) {
    std::string what = c.name == "the choices of the cpu" ? "same choices" : "equal";
    if (c.first) what = "DIFFERENT: " + describe(*c.first);
    if (!c.error.empty()) what = "FAILED: " + c.error;
    std::cout << fmt::format("{:<15} {:<25} {:>8} {:>8.2f}  {}\n", c.device, c.name, c.tokens,
                             c.seconds, what);
  }
  const auto broken = std::ranges::count_if(report.cases, [](const auto& c) { return !c.kept(); });
  std::cout << (report.kept()
                    ? fmt::format("\nThe promise was kept in all {} cases.\n", report.cases.size())
                    : fmt::format("\nTHE PROMISE WAS BROKEN in {} of {} cases.\n", broken,
                                  report.cases.size()));
}

void print_json(const VerifyReport& report, const std::string& model) {
  nlohmann::ordered_json out;
  out["model"] = model;
  out["kept"] = report.kept();
  out["devices"] = nlohmann::ordered_json::array();
  for (const DeviceResult& d : report.devices)
    out["devices"].push_back({{"device", d.device},
                              {"backend", d.backend},
                              {"sha256", d.sha256},
                              {"tokens", d.tokens},
                              {"absent", d.absent}});
  out["cases"] = nlohmann::ordered_json::array();
  for (const CaseResult& c : report.cases) {
    nlohmann::ordered_json one = {{"device", c.device}, {"case", c.name},
                                  {"tokens", c.tokens}, {"seconds", c.seconds},
                                  {"kept", c.kept()},   {"first_difference", nullptr}};
    if (c.first)
      one["first_difference"] = {{"sequence", c.first->sequence}, {"token", c.first->token},
                                 {"logit", c.first->logit},       {"got", c.first->got},
                                 {"alone", c.first->want},        {"margin", c.first->margin}};
    if (!c.error.empty()) one["error"] = c.error;
    out["cases"].push_back(std::move(one));
  }
  std::cout << dump(out) << "\n";
}

herd::Result<VerifyOptions> make_options(const Flags& flags) {
  const herd::ModelOptions given = flags.model.options();
  VerifyOptions options;
  options.full = flags.full;
  options.kv_type = given.kv_type;
  options.threads = given.threads;
  options.skip_missing = flags.devices.empty();
  std::vector<std::string> names = flags.devices;
  if (names.empty()) {
    names = device_names();
    std::erase(names, "metal-emulated");  // an emulator is no device, and takes hours
  }
  for (const std::string& name : names) {
    ModelFlags each = flags.model;
    each.device = name;
    options.devices.push_back(each.options().device);
  }
  // The cpu first: others are held against it.
  std::ranges::stable_partition(options.devices, [](auto d) { return d == herd::DeviceType::cpu; });
  herd::ModelOptions one;
  one.batch_size = 1;
  const auto need = herd::LlamaModel::plan(flags.model.path, one);
  if (!need.ok()) return need.error();
  options.context = need->context;
  auto work = read_work(flags, options.context);
  if (!work.ok()) return work.error();
  options.work = std::move(*work);
  std::int32_t longest = 0;
  for (const Sequence& s : options.work) longest = std::max(longest, s.prompt + 2 * s.answer);
  if (longest > 0) options.context = std::min(options.context, longest);
  return options;
}

int run(const Flags& flags) {
  const auto options = make_options(flags);
  if (!options.ok()) return fail(options.error());
  catch_interrupt();
  Progress progress("verifying");
  const OpenModel open = [&](const herd::ModelOptions& o) {
    return herd::LlamaModel::from_gguf(flags.model.path, o);
  };
  const auto report =
      verify(open, *options, [&](const std::string& device, const std::string& name) {
        progress.status(fmt::format("{}: {}", device, name));
        return !interrupted();
      });
  progress.clear();
  if (!report.ok()) return interrupted() ? kInterrupted : fail(report.error());
  if (flags.json)
    print_json(*report, flags.model.path);
  else
    print_text(*report);
  return report->kept() ? kOk : kFailed;
}

}  // namespace

void add_verify(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("verify", "check on your own model that no answer depends on its company");
  flags->model.add_path(*command);
  command
      ->add_option("--devices", flags->devices,
                   "cpu, reference, cuda, metal, metal-emulated; if not given all "
                   "that are here, without the emulator")
      ->delimiter(',')
      ->check(CLI::IsMember(device_names()));
  command->add_option("--prompts", flags->prompts,
                      "your own work: a JSONL file as generate takes it; - for stdin");
  auto* quick = command->add_flag("--quick", flags->quick, "less work; this is the default");
  command->add_flag("--full", flags->full, "more sequences, longer ones, more cases")
      ->excludes(quick);
  command
      ->add_option("--threads", flags->model.threads,
                   "CPU threads of the work alone; 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--kv-type", flags->model.kv_type, "how keys and values are kept")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "for machines: kept, devices[], cases[]");
  command->footer(
      "Every sequence is run alone first. Then the same work runs in batches of several sizes and\n"
      "orders, in pieces, cut back and continued, beside sequences that are freed, through the "
      "engine\n"
      "with warm prefixes, with others cancelled in between and with a pool so small that it "
      "preempts,\n"
      "and on the cpu with every instruction set and other thread counts. All logits must be the "
      "same\n"
      "bits. Devices have bits of their own; cpu and reference share theirs. The sha256 lets two\n"
      "machines compare. Exit status 1 if a promise is broken: the table names the first "
      "difference.\n"
      "Examples:\n"
      "  herd verify -m model.gguf\n"
      "  herd verify -m model.gguf --full --devices cpu,cuda --json");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
