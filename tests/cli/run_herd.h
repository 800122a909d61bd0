// Runs the built program as its users do, and keeps what it said.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace herd::test {

inline std::string data(const std::string& name) {
  return std::string(HERD_TEST_DATA) + "/" + name;
}

/// A folder of its own for each test, removed with it.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "herd-cli-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(*this / name, std::ios::binary) << bytes;
    return *this / name;
  }
  std::string read(const std::string& name) const {
    std::ifstream in(*this / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_),
                                                  std::filesystem::directory_iterator()));
  }

 private:
  std::string path_;
};

struct Outcome {
  int status = -1;  // exit status; 1000 + signal if a signal ended it
  std::string out, err;
  std::int64_t peak_bytes = 0;  // the most memory it had resident; of wait() alone
};

/// One run of the program, from start to wait().
class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments, const std::string& input = "",
                   const std::string& program = HERD_BINARY) {
    folder_.write("in", input);
    std::vector<std::string> words = {program};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string in = folder_ / "in", out = folder_ / "out", err = folder_ / "err";
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork failed");
    if (pid_ > 0) return;
    redirect(in.c_str(), O_RDONLY, 0);
    redirect(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 1);
    redirect(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 2);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  std::string out_so_far() const { return folder_.read("out"); }
  void send(int signal) const { ::kill(pid_, signal); }
  /// Whether it ended within `seconds`.
  bool ends_within(double seconds) {
    for (double waited = 0; waited < seconds; waited += 0.01) {
      if (::waitpid(pid_, &raw_, WNOHANG) == pid_) return ended();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  Outcome wait() {
    if (pid_ > 0) {
      ::wait4(pid_, &raw_, 0, &usage_);
      ended();
    }
    const int status = WIFEXITED(raw_) ? WEXITSTATUS(raw_) : 1000 + WTERMSIG(raw_);
    return {status, folder_.read("out"), folder_.read("err"),
            std::int64_t{usage_.ru_maxrss} * 1024};
  }

 private:
  static void redirect(const char* path, int flags, int descriptor) {
    const int opened = ::open(path, flags, 0600);
    if (opened < 0 || ::dup2(opened, descriptor) < 0) ::_exit(126);
  }
  bool ended() {
    pid_ = -1;
    return true;
  }
  Folder folder_;
  pid_t pid_ = -1;
  int raw_ = 0;
  struct rusage usage_ = {};
};

inline Outcome herd(const std::vector<std::string>& arguments, const std::string& input = "") {
  return Process(arguments, input).wait();
}

inline std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

/// Every line as JSON; throws on one that is not.
inline std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::vector<nlohmann::json> out;
  for (const std::string& line : lines(text)) out.push_back(nlohmann::json::parse(line));
  return out;
}

inline std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

}  // namespace herd::test
