// Template text to tokens, white space already taken away as trim_blocks, lstrip_blocks and the
// signs in the tags say.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chat/value.h"

namespace herd::chat {

enum class TokenType {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  real,
  op,
  end,
};

struct Token {
  TokenType type = TokenType::end;
  std::string text;  // name, operator, data, unescaped string
  Value number;      // integer, real
  int line = 1;

  bool is(TokenType wanted, std::string_view word) const { return type == wanted && text == word; }
};

/// All tokens, the last of type `end`. Fails with invalid_argument, naming the line.
std::vector<Token> tokenize(std::string_view source);

/// For messages: "name 'x'", "end of statement block".
std::string describe(const Token& token);

}  // namespace herd::chat
