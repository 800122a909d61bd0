// Any bytes as a prompts file of `herd generate`, a score file of `herd score` and a case of `herd
// render`.
#include "fuzz.h"

#include <string>

#include "apps/cli/inputs.h"
#include "apps/cli/json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace herd::fuzz;
  const std::string text(text_of(data, size));
  for (const cli::Entry& entry : cli::parse_prompts(text)) {
    const auto& request = entry.request;
    check(entry.error.find('\n') == std::string::npos);
    check(entry.error.empty() || request.prompt.empty());
    for (const herd::TokenId id : request.ids) check(id >= 0 && id <= 1 << 30);
  }
  for (const cli::ScoreEntry& entry : cli::parse_scores(text)) {
    check(entry.error.find('\n') == std::string::npos);
    for (const auto* ids : {&entry.context_ids, &entry.continuation_ids})
      for (const herd::TokenId id : *ids) check(id >= 0 && id <= 1 << 30);
  }
  for (const herd::ChatFile& file : {herd::ChatFile{}, herd::ChatFile{"", "<s>", "</s>"}}) {
    const auto given = cli::parse_case(text, file);
    if (given.ok())
      check(cli::parse_json(*given).is_object());
    else
      check(given.error());
  }
  check(cli::shown(text).size() <= 80 * 4 + 3);
  return 0;
}
