// herd chat: a conversation in the terminal.
#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <iostream>
#include <memory>
#include <mutex>

#include "common.h"
#include "conversation.h"
#include "herd/engine.h"
#include "line_reader.h"
#include "sampling_flags.h"

namespace cli {
namespace {

constexpr const char* kHelp =
    "/help          this\n"
    "/clear         forget the conversation, keep the system prompt\n"
    "/system TEXT   another system prompt from now on; without TEXT: none\n"
    "/quit          leave, as Ctrl-D\n"
    "Ctrl-C stops an answer; at the prompt it leaves.\n";

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system, template_file;
  int max_tokens = 1024;
};

// ---- Ctrl-C ----

std::atomic<bool> answering{false}, stop_asked{false};
termios terminal_before;
std::atomic<bool> terminal_known{false};

/// While an answer runs: stop it; the second time, or at the prompt: leave, with the terminal as it
/// was (the line editor may have changed it).
void on_interrupt(int) {
  if (answering && !stop_asked.exchange(true)) return;
  if (terminal_known) tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
  [[maybe_unused]] const auto written = write(STDOUT_FILENO, "\n", 1);
  _exit(kInterrupted);
}

void watch_interrupts() {
  terminal_known = tcgetattr(STDIN_FILENO, &terminal_before) == 0;
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

// ---- one answer ----

/// Waits for events, but not so long that Ctrl-C would have to.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    changed_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(50), [&] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

class Chat {
 public:
  Chat(const Flags& flags, herd::Engine& engine, Conversation conversation)
      : flags_(flags), engine_(engine), conversation_(std::move(conversation)) {}

  int run() {
    const bool person = asks_person();
    if (person) std::cerr << "/help shows the commands; Ctrl-D leaves.\n";
    int code = kOk;
    while (auto line = read_line("> ")) {
      if (line->find_first_not_of(" \t\r") == std::string::npos) continue;
      if (*line == "/quit" || *line == "/exit") return kOk;
      if ((*line)[0] == '/')
        command(*line);
      else if (!turn(*line) && !person)
        code = kFailed;  // a script must not take silence for an answer
    }
    if (person) std::cout << "\n";
    return code;
  }

 private:
  void command(const std::string& line) {
    if (line == "/help") {
      std::cerr << kHelp;
    } else if (line == "/clear") {
      conversation_.clear();
      std::cerr << "(forgotten)\n";
    } else if (line == "/system" || line.starts_with("/system ")) {
      conversation_.set_system(line.size() > 8 ? line.substr(8) : "");
      std::cerr << "(system prompt set)\n";
    } else {
      std::cerr << fmt::format("herd: no command {}; /help shows them\n",
                               shown(line.substr(0, line.find(' '))));
    }
  }

  /// A question and its answer. False: there was none, and why has been said.
  bool turn(const std::string& text) {
    conversation_.ask(text);
    herd::GenerateRequest request;
    request.max_tokens = flags_.max_tokens;
    request.sampling = flags_.sampling.params;
    if (Status status = fill(request); !status.ok()) return give_up(status.error());
    // Shared: the engine may still be ringing when the last event is already here.
    const auto bell = std::make_shared<Bell>();
    auto answer = engine_.submit(std::move(request), {.on_events = [bell] { bell->ring(); }});
    if (!answer.ok()) return give_up(answer.error());
    herd::Event last;
    conversation_.answer(stream(*answer, *bell, last));
    if (last.finish_reason == herd::FinishReason::error)
      std::cerr << "herd: " << last.error.message << "\n";
    else if (last.finish_reason == herd::FinishReason::cancelled)
      std::cerr << "(stopped)\n";
    else if (last.finish_reason == herd::FinishReason::length)
      std::cerr << "(cut at " << last.usage.answer_tokens << " tokens)\n";
    return last.finish_reason != herd::FinishReason::error;
  }

  using Status = herd::Status;
  Status fill(herd::GenerateRequest& request) {
    const std::int32_t answer_room = std::min(flags_.max_tokens, engine_.context() / 4);
    int dropped = 0;
    auto ids =
        conversation_.prompt([&](const std::string& text) { return engine_.encode(text, false); },
                             engine_.context() - answer_room, dropped);
    if (!ids.ok()) return ids.status();
    if (dropped > 0)
      std::cerr << fmt::format("(the context is full: the oldest {} forgotten)\n",
                               dropped == 1 ? "turn is" : fmt::format("{} turns are", dropped));
    request.ids = *std::move(ids);
    return {};
  }

  bool give_up(const herd::Error& error) {
    conversation_.take_back();
    fail(error);
    return false;
  }

  /// Prints the answer as it comes. Its text.
  static std::string stream(herd::Answer& answer, Bell& bell, herd::Event& last) {
    static const bool to_person = isatty(STDOUT_FILENO) != 0;
    std::string text;
    stop_asked = false;
    answering = true;
    while (!answer.done()) {
      if (stop_asked) answer.cancel();
      bell.wait();
      for (herd::Event& event : answer.take()) {
        text += event.text;
        std::cout << (to_person ? for_terminal(event.text) : event.text) << std::flush;
        last = std::move(event);
      }
    }
    answering = false;
    std::cout << "\n" << std::flush;
    return text;
  }

  const Flags& flags_;
  herd::Engine& engine_;
  Conversation conversation_;
};

herd::Result<Conversation> start_conversation(const Flags& flags) {
  auto file = herd::read_chat_file(flags.model.path);
  if (!flags.template_file.empty()) {
    auto text = read_file(flags.template_file);
    if (!text.ok()) return text.error();
    if (!file.ok()) file = herd::ChatFile{};
    file->chat_template = *std::move(text);
  }
  if (!file.ok() && file.error().code == herd::Code::not_found)
    return herd::Error{
        herd::Code::not_found,
        fmt::format("{}: no chat template in it; give one with --template FILE", flags.model.path)};
  if (!file.ok()) return file.error();
  auto parsed = herd::ChatTemplate::parse(file->chat_template);
  if (!parsed.ok()) return parsed.error();
  return Conversation(*std::move(parsed), *std::move(file), flags.system);
}

int run(Flags& flags) {
  if (herd::Status status = flags.sampling.parse_biases(); !status.ok())
    return fail(status.error().message, kWrongUse);
  auto conversation = start_conversation(flags);
  if (!conversation.ok()) return fail(conversation.error());
  herd::ModelOptions options = flags.model.options();
  options.batch_size = 1;
  if (flags.model.context == 0) {
    constexpr std::int32_t kUsual = 8192;
    const auto plan = herd::LlamaModel::plan(flags.model.path, options);
    if (!plan.ok()) return fail(plan.error());
    options.context = std::min(plan->context, kUsual);
  }
  auto model = load(flags.model.path, options);
  if (!model.ok()) return fail(model.error());
  herd::EngineOptions limits;
  limits.wall_time = std::chrono::hours(24);
  auto engine = herd::Engine::create(*std::move(model), std::move(limits));
  if (!engine.ok()) return fail(engine.error());
  watch_interrupts();
  return Chat(flags, **engine, *std::move(conversation)).run();
}

}  // namespace

void add_chat(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  flags->sampling.params.temperature = 0.7f;
  flags->sampling.params.top_p = 0.95f;
  CLI::App* command = app.add_subcommand("chat", "a conversation in the terminal");
  flags->model.add_path(*command);
  command->add_option("--system", flags->system, "system prompt");
  add_chat_template(*command, flags->template_file);
  command->add_option("-n,--max-tokens", flags->max_tokens, "most tokens per answer")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command
      ->add_option("--context", flags->model.context,
                   "tokens of the whole conversation; 0: the model's, at most 8192")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  flags->sampling.add(*command);
  flags->model.add_device(*command);
  command->footer(
      std::string(kHelp) +
      "Answers go to stdout, notes to stderr. Lines that are piped in are one question each; "
      "nothing "
      "is\nkept on disk. When the context is full, the oldest turns are forgotten, with a note.\n"
      "Example: herd chat -m model.gguf --system 'You answer in one sentence.'");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
