// What has been said so far, as the prompt of the next answer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "herd/chat.h"
#include "herd/types.h"

namespace cli {

/// Text for a terminal: control characters but line ends and tabs are spelt out, so that no answer
/// moves the cursor or changes a title.
std::string for_terminal(const std::string& text);

class Conversation {
 public:
  using Encode = std::function<herd::Result<std::vector<herd::TokenId>>(const std::string&)>;

  Conversation(herd::ChatTemplate chat_template, herd::ChatFile file, std::string system)
      : template_(std::move(chat_template)), file_(std::move(file)), system_(std::move(system)) {}

  void set_system(std::string text) { system_ = std::move(text); }
  void clear() { turns_.clear(); }
  void ask(std::string text) { turns_.push_back({"user", std::move(text)}); }
  void answer(std::string text) { turns_.push_back({"assistant", std::move(text)}); }
  /// The last question was never asked.
  void take_back() { turns_.pop_back(); }

  /// The ids of it all, at most `room`. Where they are more, the oldest question goes with its
  /// answer, until they fit; `dropped` counts those gone. Errors: the template's; out_of_range if
  /// the last question alone is too long.
  herd::Result<std::vector<herd::TokenId>> prompt(const Encode& encode, std::int32_t room,
                                                  int& dropped);

 private:
  struct Turn {
    std::string role, content;
  };
  herd::Result<std::string> render() const;

  herd::ChatTemplate template_;
  herd::ChatFile file_;
  std::string system_;
  std::vector<Turn> turns_;  // user and assistant in turn, the last a user's
};

}  // namespace cli
