// herd logits: the logits after every token of given sequences, to a file.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <memory>

#include "common.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string ids, out;
};
using Sequences = std::vector<std::vector<herd::TokenId>>;

herd::Result<Sequences> read_sequences(const std::string& path) {
  const auto text = read_file(path);
  if (!text.ok()) return text.error();
  const auto bad = [&](const std::string& what) {
    return herd::Error{herd::Code::invalid_argument, path + ": " + what + "; must be [[ids], ...]"};
  };
  const auto json = parse_json(*text);
  if (!json.is_array()) return bad("no JSON list");
  if (json.empty()) return bad("an empty list of sequences");
  Sequences sequences;
  for (std::size_t i = 0; i < json.size(); ++i) {
    if (!json[i].is_array()) return bad(fmt::format("entry {} is no list", i));
    auto& sequence = sequences.emplace_back();
    for (const auto& id : json[i]) {
      if (!is_token_id(id))
        return bad(fmt::format("sequence {}: {} is no token id", i, shown(id.dump())));
      sequence.push_back(id.get<herd::TokenId>());
    }
  }
  return sequences;
}

/// The row at which each sequence starts in the file, so that rows can be written as they come.
std::vector<std::int64_t> first_rows(const Sequences& sequences) {
  std::vector<std::int64_t> rows;
  std::int64_t row = 0;
  for (const auto& sequence : sequences) {
    rows.push_back(row);
    row += std::ssize(sequence);
  }
  rows.push_back(row);
  return rows;
}

int run(const Flags& flags) {
  const auto sequences = read_sequences(flags.ids);
  if (!sequences.ok()) return fail(sequences.error());
  std::vector<std::int64_t> lengths;
  for (const auto& sequence : *sequences) lengths.push_back(std::ssize(sequence));
  const auto options = size_to_work(flags.model, lengths, 64);
  if (!options.ok()) return fail(options.error());
  auto model = load(flags.model.path, *options);
  if (!model.ok()) return fail(model.error());

  const std::string temporary = flags.out + ".tmp";
  std::ofstream out(temporary, std::ios::binary);
  if (!out) return fail(temporary + ": cannot be written");
  const auto rows = first_rows(*sequences);
  const std::int64_t row_bytes = std::int64_t{model->info().vocab} * 4;
  Progress progress("logits");
  std::int64_t done = 0;
  const herd::Status status = model->forward_all(
      *sequences, [&](std::size_t s, std::size_t t, std::span<const float> logits) {
        out.seekp((rows[s] + static_cast<std::int64_t>(t)) * row_bytes);
        out.write(reinterpret_cast<const char*>(logits.data()), row_bytes);
        progress.update(++done, rows.back());
      });
  out.close();
  if (status.ok() && out && std::rename(temporary.c_str(), flags.out.c_str()) == 0) return kOk;
  std::remove(temporary.c_str());
  return status.ok() ? fail(flags.out + ": cannot be written") : fail(status.error());
}

}  // namespace

void add_logits(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("logits", "logits after every token of given sequences");
  flags->model.add_path(*command);
  command->add_option("--ids", flags->ids, "JSON file [[ids], ...]; - for stdin")->required();
  command->add_option("--out", flags->out, "float32 [token][vocab], sequence after sequence")
      ->required();
  flags->model.add_device(*command);
  flags->model.add_sizes(*command);
  command->footer(
      "All sequences run in one ragged batch. The file appears whole or not at all.\n"
      "Example: echo '[[1,2,3],[4,5]]' | herd logits -m model.gguf --ids - --out logits.f32");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
