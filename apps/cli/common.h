// What the commands share: exit codes, errors, progress, and the options every model command takes.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "herd/llama.h"
#include "json.h"

namespace cli {

inline constexpr int kOk = 0, kFailed = 1, kWrongUse = 2, kInterrupted = 130;

/// "herd: message" on stderr; returns the code to exit with.
int fail(std::string_view message, int code = kFailed);
int fail(const herd::Error& error);

/// One text line on stderr that redraws itself; silent when stderr is no terminal and for the first
/// second of work.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();
  void update(std::int64_t done, std::int64_t total);
  void status(const std::string& text);  // instead of a bar
  void clear();

 private:
  std::string label_;
  double started_, drawn_ = 0;
  bool shown_ = false;
};

double seconds_now();
std::string human_bytes(double bytes);

/// Ctrl-C once: interrupted() turns true. Twice: the program ends at once.
void catch_interrupt();
bool interrupted();

/// A whole file, or stdin for "-". Error: io or not_found, naming the path.
herd::Result<std::string> read_file(const std::string& path);
std::string read_stdin();

/// What --device may name.
std::vector<std::string> device_names();

/// -m, --device, --threads, --isa, --kv-type, --context, --batch-size.
struct ModelFlags {
  std::string path, device = "cpu", isa = "auto", kv_type = "f16";
  int threads = 0, context = 0, batch_size = 0;
  bool profile = false;

  void add_path(CLI::App& app, bool positional = false);
  void add_device(CLI::App& app);
  void add_sizes(CLI::App& app);
  void add_profile(CLI::App& app);
  /// Options for the library; batch size and context as given or 0.
  herd::ModelOptions options() const;
};

/// The context and KV room that sequences of these many tokens need: as many places as --batch-size
/// says, or as there are sequences, at most `most`. A sequence longer than the model's context gets
/// no more than that. Errors: as LlamaModel::plan.
herd::Result<herd::ModelOptions> size_to_work(const ModelFlags& flags,
                                              const std::vector<std::int64_t>& lengths, int most);

/// With --profile: a table of the ops and their times, on stderr.
void show_op_times(const herd::LlamaModel& model);

/// Loads with a progress bar.
herd::Result<herd::LlamaModel> load(const std::string& path, herd::ModelOptions options);

/// --chat-template of the commands that hold conversations, and its shorter name.
void add_chat_template(CLI::App& app, std::string& file);

// Each command adds itself to the program; `exit_code` is set when it ran.
void add_generate(CLI::App& app, int& exit_code);
void add_chat(CLI::App& app, int& exit_code);
void add_tokenize(CLI::App& app, int& exit_code);
void add_render(CLI::App& app, int& exit_code);
void add_logits(CLI::App& app, int& exit_code);
void add_inspect(CLI::App& app, int& exit_code);
void add_plan(CLI::App& app, int& exit_code);
void add_bench(CLI::App& app, int& exit_code);
void add_make_model(CLI::App& app, int& exit_code);
void add_metal_selftest(CLI::App& app, int& exit_code);
void add_perplexity(CLI::App& app, int& exit_code);
void add_score(CLI::App& app, int& exit_code);
void add_fidelity(CLI::App& app, int& exit_code);
void add_verify(CLI::App& app, int& exit_code);
void add_serve(CLI::App& app, int& exit_code);

}  // namespace cli
