// One line from a person or a pipe. The build picks the file that implements it.
#pragma once

#include <optional>
#include <string>

namespace cli {

/// Whether stdin is a terminal, so that a person is asked.
bool asks_person();

/// The next line without its end; none at the end of stdin (Ctrl-D). A person sees `prompt`, can
/// edit the line and, where the build has libedit, get earlier ones with the arrow keys. Lines are
/// kept for the length of the run only, never on disk.
std::optional<std::string> read_line(const char* prompt);

}  // namespace cli
