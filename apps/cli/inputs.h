// Text from outside as requests and cases: what reads it knows nothing of files and devices.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "herd/chat.h"
#include "herd/llama.h"

namespace cli {

/// One request, or why its line of a prompts file cannot be one.
struct Entry {
  herd::GenerateRequest request;
  std::string error;
};

/// JSONL, {"prompt": TEXT} or {"ids": [...]} a line; blank lines are passed over. A line that is
/// wrong becomes an Entry with an error that names it.
std::vector<Entry> parse_prompts(const std::string& text);

/// A line of a score file: what is scored, and what stands before it; or why the line is wrong.
struct ScoreEntry {
  bool text = false;
  std::string context, continuation;                         // text
  std::vector<herd::TokenId> context_ids, continuation_ids;  // ids
  std::string error;
};

/// JSONL, {"context", "continuation"} or {"context_ids", "continuation_ids"} a line, as
/// parse_prompts.
std::vector<ScoreEntry> parse_scores(const std::string& text);

/// A chat template's case as it came, with the file's bos and eos where the case has none.
/// Error: invalid_argument.
herd::Result<std::string> parse_case(const std::string& text, const herd::ChatFile& file);

}  // namespace cli
