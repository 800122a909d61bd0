#include "inputs.h"

#include <fmt/format.h>

#include <sstream>

#include "json.h"

namespace cli {
namespace {

/// Appends a JSON list of ids. Empty, or what is wrong with it.
std::string read_ids(const nlohmann::json& list, std::vector<herd::TokenId>& out) {
  for (const auto& id : list) {
    if (!is_token_id(id)) return fmt::format("{} is no token id", shown(id.dump()));
    out.push_back(id.get<herd::TokenId>());
  }
  return {};
}

Entry parse_prompt(const std::string& line) {
  Entry entry;
  const auto json = parse_json(line);
  const bool text = json.is_object() && json.contains("prompt") && json["prompt"].is_string();
  const bool ids =
      json.is_object() && json.contains("ids") && json["ids"].is_array() && !json["ids"].empty();
  if (text)
    entry.request.prompt = json["prompt"].get<std::string>();
  else if (ids)
    entry.error = read_ids(json["ids"], entry.request.ids);
  else
    entry.error = "must be {\"prompt\": TEXT} or {\"ids\": [at least one id]}";
  return entry;
}

ScoreEntry parse_score(const std::string& line) {
  ScoreEntry entry;
  const auto json = parse_json(line);
  const auto both = [&](const char* a, const char* b, auto is) {
    return json.is_object() && json.contains(a) && json.contains(b) && is(json[a]) && is(json[b]);
  };
  entry.text = both("context", "continuation", [](const auto& j) { return j.is_string(); });
  if (entry.text) {
    entry.context = json["context"].template get<std::string>();
    entry.continuation = json["continuation"].template get<std::string>();
  } else if (both("context_ids", "continuation_ids", [](const auto& j) { return j.is_array(); })) {
    entry.error = read_ids(json["context_ids"], entry.context_ids);
    if (entry.error.empty())
      entry.error = read_ids(json["continuation_ids"], entry.continuation_ids);
  } else {
    entry.error =
        "must be {\"context\": TEXT, \"continuation\": TEXT} or {\"context_ids\": [...], "
        "\"continuation_ids\": [...]}";
  }
  return entry;
}

/// What each line that is not blank says; errors name the line.
template <class Parse>
auto parse_lines(const std::string& text, Parse&& parse) {
  std::vector<decltype(parse(text))> entries;
  std::istringstream lines(text);
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    entries.push_back(parse(line));
    std::string& error = entries.back().error;
    if (!error.empty()) error = fmt::format("line {}: {}", number, error);
  }
  return entries;
}

}  // namespace

std::vector<Entry> parse_prompts(const std::string& text) {
  return parse_lines(text, parse_prompt);
}
std::vector<ScoreEntry> parse_scores(const std::string& text) {
  return parse_lines(text, parse_score);
}

herd::Result<std::string> parse_case(const std::string& text, const herd::ChatFile& file) {
  auto json = parse_json<nlohmann::ordered_json>(text);
  if (json.is_discarded())
    return herd::Error{herd::Code::invalid_argument, "stdin: not valid JSON, or nested too deep"};
  if (!json.is_object())
    return herd::Error{herd::Code::invalid_argument,
                       "stdin: must be an object, {\"messages\": [...], ...}"};
  const bool complete = (file.bos_token.empty() || json.contains("bos_token")) &&
                        (file.eos_token.empty() || json.contains("eos_token"));
  if (complete) return text;  // numbers stay spelt as they are
  if (!json.contains("bos_token")) json["bos_token"] = file.bos_token;
  if (!json.contains("eos_token")) json["eos_token"] = file.eos_token;
  return dump(json);
}

}  // namespace cli
