// herd: batched inference of Llama-family GGUF models. One file per command.
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

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(kAbout, "herd");
  app.footer(kFooter);
  app.set_version_flag("--version", "herd " HERD_VERSION);
  app.require_subcommand(1);
  int exit_code = cli::kOk;
  cli::add_generate(app, exit_code);
  cli::add_tokenize(app, exit_code);
  cli::add_render(app, exit_code);
  cli::add_logits(app, exit_code);
  cli::add_inspect(app, exit_code);
  cli::add_plan(app, exit_code);
  cli::add_bench(app, exit_code);
  cli::add_make_model(app, exit_code);
  cli::add_metal_selftest(app, exit_code);
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
