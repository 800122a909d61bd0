#include <unistd.h>

#include <iostream>

#include "line_reader.h"

namespace cli {

bool asks_person() {
  return isatty(STDIN_FILENO) != 0;
}

std::optional<std::string> read_line(const char* prompt) {
  if (asks_person()) std::cout << prompt << std::flush;
  std::string line;
  if (!std::getline(std::cin, line)) return {};
  return line;
}

}  // namespace cli
