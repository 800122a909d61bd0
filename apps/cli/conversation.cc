#include "conversation.h"

#include <fmt/format.h>

#include "json.h"

namespace cli {

std::string for_terminal(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
    // U+0080 to U+009F: some terminals obey those too.
    const bool c1 = byte == 0xc2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                    static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c1)
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(text[++i]));
    else if (control)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += text[i];
  }
  return out;
}

herd::Result<std::string> Conversation::render() const {
  nlohmann::ordered_json variables;
  auto& messages = variables["messages"] = nlohmann::ordered_json::array();
  if (!system_.empty()) messages.push_back({{"role", "system"}, {"content", system_}});
  for (const Turn& turn : turns_)
    messages.push_back({{"role", turn.role}, {"content", turn.content}});
  variables["add_generation_prompt"] = true;
  variables["bos_token"] = file_.bos_token;
  variables["eos_token"] = file_.eos_token;
  return template_.render(dump(variables));
}

herd::Result<std::vector<herd::TokenId>> Conversation::prompt(const Encode& encode,
                                                              std::int32_t room, int& dropped) {
  for (;;) {
    const auto text = render();
    if (!text.ok()) return text.error();
    auto ids = encode(*text);
    if (!ids.ok() || std::ssize(*ids) <= room) return ids;
    if (turns_.size() < 3)
      return herd::Error{herd::Code::out_of_range,
                         fmt::format("this is {} tokens with its surroundings, at most {} fit; see "
                                     "--context and --max-tokens",
                                     ids->size(), room)};
    turns_.erase(turns_.begin(), turns_.begin() + 2);
    ++dropped;
  }
}

}  // namespace cli
