// Any text as a JSON Schema; one that compiles is followed along a path that the text itself
// chooses.
#include "fuzz.h"

#include <nlohmann/json.hpp>
#include <string>

#include "constrain/grammar.h"
#include "constrain/schema.h"

namespace {

using namespace herd;

std::shared_ptr<const constrain::TokenTrie> vocabulary() {
  static const auto trie = [] {
    std::vector<std::string> texts = {""};
    for (int byte = 0; byte < 256; ++byte) texts.push_back(std::string(1, static_cast<char>(byte)));
    for (const char* text :
         {"{\"", "\": ", "\", \"", "\"}", "]}", "}}", "[]", "true", "null", "12"})
      texts.push_back(text);
    return std::make_shared<const constrain::TokenTrie>(std::move(texts), std::vector<TokenId>{0});
  }();
  return trie;
}

/// Some allowed token: the choice-th.
TokenId pick(std::span<const std::uint64_t> mask, std::size_t choice) {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < vocabulary()->size(); ++id)
    if ((mask[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1) != 0) ids.push_back(id);
  fuzz::check(!ids.empty());
  return ids[choice % ids.size()];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  auto automaton = constrain::compile_schema(text, vocabulary()->alphabet());
  if (!automaton.ok()) {
    fuzz::check(automaton.error());
    return 0;
  }
  constrain::Constraint constraint(
      std::make_shared<constrain::Grammar>(*std::move(automaton), vocabulary()));
  std::string answer;
  for (std::size_t i = 0; i < 40 && !constraint.ended(); ++i) {
    const auto mask = constraint.allowed(true);
    if (!mask.ok()) {
      fuzz::check(mask.error());
      return 0;
    }
    const TokenId id = pick(*mask, size > 0 ? data[(i * 7 + 1) % size] : 0);
    fuzz::check(constraint.take(id).ok());
    answer += vocabulary()->text(id);
  }
  if (constraint.ended()) fuzz::check(nlohmann::json::accept(answer));
  return 0;
}
