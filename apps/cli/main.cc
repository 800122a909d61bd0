// herd: batched inference of Llama-family GGUF models. One file per command.
#include <fmt/format.h>

#include "common.h"

namespace {

constexpr const char* kAbout =
    "herd runs Llama-family models from GGUF files for many sequences at once.\n"
    "An answer never depends on what else is in the batch.";
constexpr const char* kFooter =
    "Results go to stdout, progress and talk to stderr. Exit status: 0 ok, 1 failed, 2 wrong use,\n"
    "130 stopped with Ctrl-C.\n"
    "Example: herd generate -m model.gguf -p 'Once upon a time' -p 'The capital of France is' -n "
    "32";

/// The error if the first argument is meant as a command and there is none of that name; else
/// empty.
std::string unknown_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return "";
  std::string names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    if (command->get_name() == argv[1]) return "";
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  return fmt::format("no command '{}'; there are {}", argv[1], names);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(kAbout, "herd");
  app.footer(kFooter);
  app.set_version_flag("--version", "herd " HERD_VERSION);
  app.require_subcommand(1);
  int exit_code = cli::kOk;
  cli::add_generate(app, exit_code);
  cli::add_chat(app, exit_code);
  cli::add_tokenize(app, exit_code);
  cli::add_render(app, exit_code);
  cli::add_logits(app, exit_code);
  cli::add_inspect(app, exit_code);
  cli::add_plan(app, exit_code);
  cli::add_bench(app, exit_code);
  cli::add_make_model(app, exit_code);
  cli::add_metal_selftest(app, exit_code);
  cli::add_perplexity(app, exit_code);
  cli::add_score(app, exit_code);
  cli::add_fidelity(app, exit_code);
  cli::add_verify(app, exit_code);
  cli::add_serve(app, exit_code);
  if (argc < 2) {
    fmt::print(stderr, "{}", app.help());
    return cli::kWrongUse;
  }
  if (const std::string error = unknown_command(app, argc, argv); !error.empty())
    return cli::fail(error, cli::kWrongUse);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return cli::fail(e.what() + std::string("\nRun herd --help, or herd COMMAND --help."),
                     cli::kWrongUse);
  }
  return exit_code;
}
