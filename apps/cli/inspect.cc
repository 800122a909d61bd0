// herd inspect: what a GGUF file holds.
#include "herd/inspect.h"

#include <fmt/format.h>

#include <iostream>
#include <map>
#include <memory>

#include "common.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  bool json = false;
};

void print_json(const herd::FileSummary& file) {
  nlohmann::ordered_json out;
  out["version"] = file.version;
  out["file_bytes"] = file.file_bytes;
  out["metadata"] = nlohmann::ordered_json::array();
  for (const auto& pair : file.metadata)
    out["metadata"].push_back({{"key", pair.key},
                               {"type", pair.type},
                               {"value", nlohmann::ordered_json::parse(pair.json)}});
  out["tensors"] = nlohmann::ordered_json::array();
  for (const auto& t : file.tensors)
    out["tensors"].push_back({{"name", t.name},
                              {"type", t.type},
                              {"shape", t.shape},
                              {"bytes", t.bytes},
                              {"offset", t.offset},
                              {"part", t.part}});
  std::cout << dump(out) << "\n";
}

void print_text(const herd::FileSummary& file) {
  std::cout << fmt::format("GGUF v{}, {} ({} bytes), {} keys, {} tensors\n\n", file.version,
                           human_bytes(static_cast<double>(file.file_bytes)), file.file_bytes,
                           file.metadata.size(), file.tensors.size());
  for (const auto& pair : file.metadata)
    std::cout << fmt::format("{:<44} {:<14} {}\n", printable(pair.key), pair.type, pair.value);
  std::map<std::string, std::uint64_t> by_type;
  std::cout << "\n";
  for (const auto& t : file.tensors) {
    std::cout << fmt::format("{:<32} {:<8} {:<20} {:>12} bytes\n", printable(t.name), t.type,
                             fmt::format("[{}]", fmt::join(t.shape, ", ")), t.bytes);
    by_type[t.type] += t.bytes;
  }
  std::cout << "\n";
  for (const auto& [type, bytes] : by_type)
    std::cout << fmt::format("{:<8} {:>10}\n", type, human_bytes(static_cast<double>(bytes)));
}

int run(const Flags& flags) {
  const auto file = herd::inspect_file(flags.model.path);
  if (!file.ok()) return fail(file.error());
  if (flags.json)
    print_json(*file);
  else
    print_text(*file);
  return kOk;
}

}  // namespace

void add_inspect(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("inspect", "metadata and tensors of a GGUF file");
  flags->model.add_path(*command, true);
  command->add_flag("--json", flags->json, "for machines: values whole and typed");
  command->footer("Example: herd inspect model.gguf");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
