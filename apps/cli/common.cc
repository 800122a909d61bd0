#include "common.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

namespace cli {

int fail(std::string_view message, int code) {
  std::cerr << "herd: " << message << "\n";
  return code;
}
int fail(const herd::Error& error) {
  return fail(error.message);
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Progress::Progress(std::string label) : label_(std::move(label)), started_(seconds_now()) {}
Progress::~Progress() {
  clear();
}

void Progress::update(std::int64_t done, std::int64_t total) {
  constexpr int kWidth = 30;
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0.0;
  const int full = static_cast<int>(share * kWidth);
  status(fmt::format("[{}{}] {:3.0f} %", std::string(static_cast<std::size_t>(full), '#'),
                     std::string(static_cast<std::size_t>(kWidth - full), '.'), share * 100));
}

void Progress::status(const std::string& text) {
  const double now = seconds_now();
  if (now - started_ < 1.0 || now - drawn_ < 0.1 || isatty(STDERR_FILENO) == 0) return;
  std::cerr << "\r\033[K" << label_ << " " << text << std::flush;
  drawn_ = now;
  shown_ = true;
}

void Progress::clear() {
  if (shown_) std::cerr << "\r\033[K" << std::flush;
  shown_ = false;
}

std::string human_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

namespace {
std::atomic<int> interrupts{0};
void on_interrupt(int) {
  if (interrupts.fetch_add(1) > 0) _exit(kInterrupted);
}
}  // namespace

void catch_interrupt() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
}
bool interrupted() {
  return interrupts.load() > 0;
}

herd::Result<std::string> read_file(const std::string& path) {
  if (path == "-") return read_stdin();
  std::ifstream in(path, std::ios::binary);
  if (!in)
    return herd::Error{herd::Code::not_found, fmt::format("{}: {}", path, std::strerror(errno))};
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (in.bad()) return herd::Error{herd::Code::io, fmt::format("{}: cannot be read", path)};
  return text;
}

std::string read_stdin() {
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

namespace {

const std::vector<std::pair<std::string, herd::DeviceType>> kDevices = {
    {"cpu", herd::DeviceType::cpu},
    {"reference", herd::DeviceType::reference},
    {"cuda", herd::DeviceType::cuda},
    {"metal", herd::DeviceType::metal},
    {"metal-emulated", herd::DeviceType::metal_emulated}};

std::vector<std::string> isa_names() {
  std::vector<std::string> names = {"auto"};
  for (const herd::Isa isa : herd::kIsas) names.emplace_back(herd::to_string(isa));
  return names;
}

}  // namespace

std::vector<std::string> device_names() {
  std::vector<std::string> names;
  for (const auto& [name, device] : kDevices) names.push_back(name);
  return names;
}

void add_chat_template(CLI::App& app, std::string& file) {
  app.add_option("--chat-template,--template", file,
                 "file with a Jinja chat template, instead of the model's");
}

void ModelFlags::add_path(CLI::App& app, bool positional) {
  app.add_option(positional ? "model,-m,--model" : "-m,--model", path,
                 "GGUF file (the first part of a split one)")
      ->required();
}

void ModelFlags::add_device(CLI::App& app) {
  app.add_option("--device", device, "where to run")
      ->check(CLI::IsMember(device_names()))
      ->capture_default_str();
  app.add_option("--threads", threads, "CPU threads; 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--isa", isa, "CPU instruction set; the bits are the same with each")
      ->check(CLI::IsMember(isa_names()))
      ->capture_default_str();
  app.add_option("--kv-type", kv_type, "how keys and values are kept: 2 or 4 bytes each")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
}

void ModelFlags::add_profile(CLI::App& app) {
  app.add_flag("--profile", profile,
               "also the time by op, on stderr; ops run one by one (metal, metal-emulated)");
}

void ModelFlags::add_sizes(CLI::App& app) {
  app.add_option("--batch-size", batch_size,
                 "sequences that run at once; 0: as many as there are, at most 16")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--context", context, "longest sequence in tokens; 0: what the work needs")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

herd::ModelOptions ModelFlags::options() const {
  herd::ModelOptions options;
  options.device =
      std::ranges::find(kDevices, device, [](const auto& d) { return d.first; })->second;
  for (const herd::Isa each : herd::kIsas)
    if (isa == herd::to_string(each)) options.isa = each;  // else it is "auto"
  options.kv_type = kv_type == "f32" ? herd::KvType::f32 : herd::KvType::f16;
  options.threads = threads;
  options.profile = profile;
  options.context = context;
  options.batch_size = batch_size == 0 ? 16 : batch_size;
  return options;
}

herd::Result<herd::ModelOptions> size_to_work(const ModelFlags& flags,
                                              const std::vector<std::int64_t>& lengths, int most) {
  std::int64_t longest = 1, total = 0;
  for (const std::int64_t length : lengths) {
    longest = std::max(longest, length);
    total += length;
  }
  herd::ModelOptions options = flags.options();
  if (flags.batch_size == 0)
    options.batch_size =
        static_cast<std::int32_t>(std::clamp<std::int64_t>(std::ssize(lengths), 1, most));
  const auto need = herd::LlamaModel::plan(flags.path, options);
  if (!need.ok()) return need.error();
  if (flags.context == 0)
    options.context = static_cast<std::int32_t>(std::min<std::int64_t>(longest, need->context));
  options.kv_tokens = std::clamp<std::int64_t>(total, options.context,
                                               std::int64_t{options.batch_size} * options.context);
  return options;
}

void show_op_times(const herd::LlamaModel& model) {
  const auto times = model.op_times();
  double all = 0;
  for (const herd::OpTime& t : times) all += t.seconds;
  if (times.empty()) return;
  std::cerr << fmt::format("{:<20} {:>8} {:>12} {:>12} {:>6}\n", "op", "calls", "ms", "us/call",
                           "%");
  for (const herd::OpTime& t : times)
    std::cerr << fmt::format("{:<20} {:>8} {:>12.3f} {:>12.2f} {:>6.1f}\n", t.op, t.calls,
                             t.seconds * 1e3, t.seconds * 1e6 / static_cast<double>(t.calls),
                             100 * t.seconds / all);
}

herd::Result<herd::LlamaModel> load(const std::string& path, herd::ModelOptions options) {
  Progress progress("loading");
  options.progress = [&](std::int64_t done, std::int64_t total) { progress.update(done, total); };
  return herd::LlamaModel::from_gguf(path, std::move(options));
}

}  // namespace cli
