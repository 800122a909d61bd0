// herd tokenize: text on stdin to token ids, and back.
#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <sstream>

#include "common.h"
#include "herd/vocabulary.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  bool json = false, bos = false, no_special = false, detokenize = false;
};

int encode(const herd::Vocabulary& vocabulary, const Flags& flags) {
  const auto ids = vocabulary.encode(read_stdin(), flags.bos, !flags.no_special);
  if (!flags.json) {
    std::cout << fmt::format("{}\n", fmt::join(ids, " "));
    return kOk;
  }
  nlohmann::ordered_json out;
  out["ids"] = ids;
  out["pieces"] = nlohmann::ordered_json::array();
  for (const herd::TokenId id : ids) out["pieces"].push_back(vocabulary.piece(id));
  std::cout << dump(out) << "\n";
  return kOk;
}

herd::Error no_id(const std::string& text) {
  return {herd::Code::invalid_argument, fmt::format("stdin: {} is no token id", text)};
}

/// A JSON list of ids or {"ids": [...]}, else ids with white space between them.
herd::Result<std::vector<herd::TokenId>> parse_ids(const std::string& text) {
  const auto json = parse_json(text);
  std::vector<herd::TokenId> ids;
  if (json.is_array() || json.is_object()) {
    const auto list = json.is_object() ? json.value("ids", nlohmann::json()) : json;
    if (!list.is_array())
      return herd::Error{herd::Code::invalid_argument, "stdin: must be [ids] or {\"ids\": [ids]}"};
    for (const auto& id : list) {
      if (!is_token_id(id)) return no_id(shown(id.dump()));
      ids.push_back(id.get<herd::TokenId>());
    }
    return ids;
  }
  std::istringstream in(text);
  for (std::string word; in >> word;) {
    const auto id = parse_json(word);
    if (!is_token_id(id)) return no_id(shown(word));
    ids.push_back(id.get<herd::TokenId>());
  }
  return ids;
}

int decode(const herd::Vocabulary& vocabulary, const Flags& flags) {
  const auto ids = parse_ids(read_stdin());
  if (!ids.ok()) return fail(ids.error());
  const auto text = vocabulary.decode(*ids, !flags.no_special);
  if (!text.ok()) return fail(text.error());
  if (!flags.json) {
    std::cout << *text;
    return kOk;
  }
  nlohmann::ordered_json out;
  out["text"] = *text;
  std::cout << dump(out) << "\n";
  return kOk;
}

int run(const Flags& flags) {
  const auto vocabulary = herd::Vocabulary::from_gguf(flags.model.path);
  if (!vocabulary.ok()) return fail(vocabulary.error());
  return flags.detokenize ? decode(*vocabulary, flags) : encode(*vocabulary, flags);
}

}  // namespace

void add_tokenize(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("tokenize", "text from stdin to token ids, or back");
  flags->model.add_path(*command);
  command->add_flag("--json", flags->json,
                    "{\"ids\": [...], \"pieces\": [...]}; bytes that are no UTF-8 show as U+FFFD");
  command->add_flag("--bos", flags->bos, "put the beginning-of-text token first");
  command->add_flag(
      "--no-special", flags->no_special,
      "special tokens in the text are ordinary text; with --detokenize they are left out");
  command->add_flag("--detokenize", flags->detokenize, "ids (JSON or separated by spaces) to text");
  command->footer(
      "All of stdin counts, byte for byte, the last newline too. Files with only a vocabulary "
      "work.\n"
      "Example: printf 'Hello world' | herd tokenize -m model.gguf --json");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
