// herd make-model: random weights in the shape of a published model.
#include "herd/make_model.h"

#include <fmt/format.h>

#include <memory>

#include "common.h"

namespace cli {
namespace {

struct Flags {
  std::string shape = "llama-3.2-1b", type = "Q4_K_M", out;
  std::uint64_t seed = 1;
};

int run(const Flags& flags) {
  Progress progress("writing");
  const herd::Status status = herd::write_random_model(
      flags.shape, flags.type, flags.seed, flags.out,
      [&](std::int64_t done, std::int64_t total) { progress.update(done, total); });
  progress.clear();
  return status.ok() ? kOk : fail(status.error());
}

}  // namespace

void add_make_model(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "make-model", "random weights of a published shape, to measure speed with");
  command
      ->add_option("--shape", flags->shape,
                   fmt::format("{}", fmt::join(herd::random_model_shapes(), ", ")))
      ->capture_default_str();
  command
      ->add_option("--type", flags->type,
                   fmt::format("{}", fmt::join(herd::random_model_types(), ", ")))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "the same seed gives the same bytes")
      ->capture_default_str();
  command->add_option("out", flags->out, "GGUF file to write")->required();
  command->footer("Example: herd make-model --shape llama-3-8b --type Q4_K_M random-8b.gguf");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
