#include <editline/readline.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>

#include "line_reader.h"

namespace cli {

bool asks_person() {
  return isatty(STDIN_FILENO) != 0;
}

std::optional<std::string> read_line(const char* prompt) {
  if (!asks_person()) {
    std::string line;
    if (!std::getline(std::cin, line)) return {};
    return line;
  }
  const std::unique_ptr<char, void (*)(void*)> line(readline(prompt), std::free);
  if (line == nullptr) return {};
  if (*line != '\0') add_history(line.get());
  return std::string(line.get());
}

}  // namespace cli
