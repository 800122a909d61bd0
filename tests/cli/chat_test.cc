// herd chat: through a pipe, and through a terminal of its own (a pty) as a person uses it.
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <termios.h>

#include "cli/run_herd.h"

namespace herd::test {
namespace {

using nlohmann::json;

const std::string kModel = data("tiny-gqa-Q4_K_M.gguf");
constexpr const char* kTemplate =
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}\n{% endfor %}<a>";

/// The template in a file, and the words of a run with it.
struct Settings {
  Folder folder;
  std::string template_file = folder.write("t.jinja", kTemplate);

  std::vector<std::string> words(const std::vector<std::string>& more) const {
    std::vector<std::string> out = {
        "chat", "-m",        kModel, "--chat-template", template_file, "--temperature",
        "0",    "--threads", "1"};
    out.insert(out.end(), more.begin(), more.end());
    return out;
  }
};

/// What herd generate says to a prompt.
std::string answer_to(const std::string& prompt, const std::string& tokens) {
  const Outcome run = herd({"generate", "-m", kModel, "-p", prompt, "-n", tokens, "--json"});
  EXPECT_EQ(run.status, 0) << run.err;
  return json::parse(run.out)["text"];
}

// ---- through a pipe ----

TEST(CliChat, EachLineIsAQuestionAndTheConversationGoesOn) {
  Settings setup;
  // The tiny model's tokeniser puts no BOS in front, so a prompt is the template's text.
  const std::string first = answer_to("<u>hello\n<a>", "12");
  const std::string second = answer_to("<u>hello\n<a>" + first + "\n<u>and now\n<a>", "12");
  const Outcome run = herd(setup.words({"-n", "12"}), "hello\n\nand now\n");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out, first + "\n" + second + "\n");
}

TEST(CliChat, Commands) {
  Settings setup;
  const std::string plain = answer_to("<u>hello\n<a>", "8");
  const std::string told = answer_to("<s>be kind\n<u>hello\n<a>", "8");
  const Outcome run = herd(
      setup.words({"-n", "8", "--system", "be kind"}),
      "hello\n/clear\nhello\n/system\n/clear\nhello\n/nonsense \x1b[2J\n/help\n/quit\nhello\n");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out, told + "\n" + told + "\n" + plain + "\n");
  EXPECT_NE(run.err.find("no command /nonsense"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("/system TEXT"), std::string::npos);
  EXPECT_EQ(run.err.find('\x1b'), std::string::npos);
}

TEST(CliChat, AFullContextForgetsTheOldestTurnsWithANote) {
  Settings setup;
  const std::string long_line(60, 'x');
  const Outcome run = herd(setup.words({"-n", "8", "--context", "128"}),
                           long_line + "\n" + long_line + "\n" + long_line + "\nhello\n");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_GE(count(run.err, "(the context is full: the oldest"), 1u) << run.err;
}

TEST(CliChat, AQuestionThatCannotFitFailsAloneAndIsForgotten) {
  Settings setup;
  const std::string hello = answer_to("<u>hello\n<a>", "8");
  const Outcome run =
      herd(setup.words({"-n", "8", "--context", "64"}), std::string(400, '#') + "\nhello\n");
  EXPECT_EQ(run.status, 1);
  EXPECT_EQ(run.out, hello + "\n");
  EXPECT_NE(run.err.find("at most 56 fit"), std::string::npos) << run.err;
}

TEST(CliChat, WrongUseIsSaid) {
  Settings setup;
  const Outcome none = herd({"chat", "-m", kModel});
  EXPECT_EQ(none.status, 1);
  EXPECT_NE(none.err.find("no chat template"), std::string::npos) << none.err;
  EXPECT_EQ(herd(setup.words({"-n", "0"})).status, 2);
  EXPECT_EQ(herd(setup.words({"--logit-bias", "x"})).status, 2);
  EXPECT_EQ(herd({"chat", "--help"}).status, 0);
}

// ---- through a terminal ----

class Terminal {
 public:
  explicit Terminal(std::vector<std::string> words) {
    words.insert(words.begin(), HERD_BINARY);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::forkpty(&pty_, nullptr, nullptr, nullptr);
    if (pid_ < 0) throw std::runtime_error("forkpty failed");
    if (pid_ > 0) return;
    ::setenv("TERM", "xterm", 1);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(pty_);
  }

  void type(const std::string& keys) {
    ASSERT_EQ(::write(pty_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  /// Reads until `text` has come after what was consumed before; consumes up to its end. False: it
  /// did not within a minute.
  bool sees(const std::string& text) {
    for (int tries = 0; tries < 600; ++tries) {
      const std::size_t at = screen_.find(text, consumed_);
      if (at != std::string::npos) {
        consumed_ = at + text.size();
        return true;
      }
      if (!read_some(100)) break;
    }
    return screen_.find(text, consumed_) != std::string::npos;
  }
  /// Reads once, waiting at most so long. False: the other end is closed.
  bool read_some(int milliseconds) {
    pollfd waiting = {pty_, POLLIN, 0};
    if (::poll(&waiting, 1, milliseconds) <= 0) return true;
    char buffer[4096];
    const ssize_t n = ::read(pty_, buffer, sizeof buffer);
    if (n <= 0) return false;
    screen_.append(buffer, static_cast<std::size_t>(n));
    return true;
  }
  /// Sees the prompt, and then that the line editor has the terminal: what is typed in between, the
  /// terminal would take for the end of input or a signal. A build without the editor leaves it as
  /// it is.
  bool prompted() {
    if (!sees("> ")) return false;
    for (int tries = 0; tries < 50; ++tries) {
      termios mode = {};
      if (::tcgetattr(pty_, &mode) == 0 && (mode.c_lflag & ICANON) == 0) break;
      read_some(100);
    }
    return true;
  }
  /// Exit status; 1000 and more: ended by a signal, ours if it did not end within a minute.
  int status() {
    for (int tries = 0; tries < 60 && read_some(1000); ++tries)
      if (tries == 59) ::kill(pid_, SIGKILL);
    int raw = 0;
    ::waitpid(std::exchange(pid_, -1), &raw, 0);
    return WIFEXITED(raw) ? WEXITSTATUS(raw) : 1000 + WTERMSIG(raw);
  }
  std::string rest() const { return screen_.substr(consumed_); }
  const std::string& screen() const { return screen_; }

 private:
  pid_t pid_ = -1;
  int pty_ = -1;
  std::string screen_;
  std::size_t consumed_ = 0;
};

/// So slow, and with so much to say, that it can be interrupted.
std::vector<std::string> slow(const Settings& setup) {
  return setup.words({"-n", "2000", "--device", "reference", "--logit-bias", "0=-100"});
}

TEST(CliChatTerminal, StreamsAnswersAndCtrlDLeaves) {
  Settings setup;
  Terminal t(slow(setup));
  ASSERT_TRUE(t.prompted()) << t.screen();
  t.type("hello\r");
  ASSERT_TRUE(t.sees("hello\r\n")) << t.screen();  // the echo
  // Text comes in several parts before the answer is over.
  int parts = 0;
  for (int i = 0; i < 600 && parts < 3; ++i) {
    const std::size_t before = t.rest().size();
    ASSERT_TRUE(t.read_some(100)) << t.screen();
    parts += t.rest().size() > before ? 1 : 0;
    ASSERT_EQ(t.rest().find("\n> "), std::string::npos) << t.screen();
  }
  EXPECT_EQ(parts, 3);
  t.type("\x03");
  ASSERT_TRUE(t.sees("(stopped)")) << t.screen();
  ASSERT_TRUE(t.prompted()) << t.screen();
  t.type("\x04");
  EXPECT_EQ(t.status(), 0) << t.screen();
}

TEST(CliChatTerminal, CtrlCStopsTheAnswerOnlyAndAtThePromptLeaves) {
  Settings setup;
  Terminal t(slow(setup));
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(t.prompted()) << t.screen();
    t.type("hello\r");
    ASSERT_TRUE(t.sees("hello\r\n")) << t.screen();
    while (t.rest().size() < 8) ASSERT_TRUE(t.read_some(100)) << t.screen();
    t.type("\x03");
    ASSERT_TRUE(t.sees("(stopped)")) << t.screen();
  }
  ASSERT_TRUE(t.prompted()) << t.screen();
  t.type("\x03");
  EXPECT_EQ(t.status(), 130) << t.screen();
}

TEST(CliChatTerminal, TheArrowBringsTheLastLineBack) {
  Settings setup;
  Terminal t(setup.words({"-n", "4"}));
  ASSERT_TRUE(t.prompted());
  t.type("/nonsense\r");
  ASSERT_TRUE(t.sees("no command /nonsense")) << t.screen();
  ASSERT_TRUE(t.prompted()) << t.screen();
  t.type("\x1b[A\r");
  const bool again = t.sees("no command /nonsense");
  if (!again && t.screen().find("[A") != std::string::npos) GTEST_SKIP() << "built without libedit";
  EXPECT_TRUE(again) << t.screen();
  t.type("/quit\r");
  EXPECT_EQ(t.status(), 0) << t.screen();
}

}  // namespace
}  // namespace herd::test
