#include "inputs.h"

#include <fmt/format.h>

#include <sstream>

#include "json.h"

namespace cli {
namespace {

Entry parse_line(const std::string& line, std::size_t number) {
  Entry entry;
  const auto json = parse_json(line);
  const bool text = json.is_object() && json.contains("prompt") && json["prompt"].is_string();
  const bool ids =
      json.is_object() && json.contains("ids") && json["ids"].is_array() && !json["ids"].empty();
  if (text) {
    entry.request.prompt = json["prompt"].get<std::string>();
    return entry;
  }
  if (!ids) {
    entry.error = fmt::format(
        "line {}: must be {{\"prompt\": TEXT}} or {{\"ids\": [at least one id]}}", number);
    return entry;
  }
  for (const auto& id : json["ids"]) {
    if (!is_token_id(id)) {
      entry.error = fmt::format("line {}: {} is no token id", number, shown(id.dump()));
      return entry;
    }
    entry.request.ids.push_back(id.get<herd::TokenId>());
  }
  return entry;
}

}  // namespace

std::vector<Entry> parse_prompts(const std::string& text) {
  std::vector<Entry> entries;
  std::istringstream lines(text);
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string::npos)
      entries.push_back(parse_line(line, number));
  }
  return entries;
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
