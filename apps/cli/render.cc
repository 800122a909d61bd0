// herd render: a chat template with the variables of one case.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "common.h"
#include "inputs.h"

namespace cli {
namespace {

struct Flags {
  std::string model, file;
};

herd::Result<herd::ChatFile> read_template(const Flags& flags) {
  if (!flags.model.empty()) return herd::read_chat_file(flags.model);
  auto text = read_file(flags.file);
  if (!text.ok()) return text.error();
  return herd::ChatFile{*std::move(text), {}, {}};
}

int run(const Flags& flags) {
  const auto file = read_template(flags);
  if (!file.ok()) return fail(file.error());
  const auto parsed = herd::ChatTemplate::parse(file->chat_template);
  if (!parsed.ok()) return fail(parsed.error());
  const auto given = parse_case(read_stdin(), *file);
  if (!given.ok()) return fail(given.error());
  const auto text = parsed->render(*given);
  if (!text.ok()) return fail(text.error());
  std::cout << *text;
  return kOk;
}

}  // namespace

void add_render(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("render", "a chat template with the case on stdin");
  auto* source = command->add_option_group("template", "where the template is");
  source->add_option("-m,--model", flags->model, "GGUF file with a chat template; no weights read");
  source->add_option("--template", flags->file, "file with a Jinja template");
  source->require_option(1);
  command->footer(
      "The case is a JSON object, each member one of the template's variables: {\"messages\": "
      "[...],\n"
      "\"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"tools\": [...]}. With -m "
      "bos_token and\n"
      "eos_token default to the file's. The text is printed byte for byte, no newline added.\n"
      "Example: herd render -m model.gguf < case.json");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
