// Chat templates: the part of Jinja2 that GGUF chat templates use, as Hugging Face's
// apply_chat_template sets it up (trim_blocks, lstrip_blocks, sandbox, loop controls, generation
// tags, raise_exception, strftime_now, a tojson that leaves text as it is). A template is foreign
// code: it sees the variables it is given and nothing else, and every render has a budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "herd/status.h"

namespace herd {

/// What one parse or render may cost; breaking one is an Error that names it.
struct ChatLimits {
  std::int64_t steps = 1'000'000;         // expressions and statements run, KiB of text made
  int depth = 64;                         // blocks, parentheses, macro calls and JSON nested
  std::size_t template_bytes = 1u << 20;  // of the template's own text
  std::size_t output_bytes = 16u << 20;   // of the rendered text
  std::size_t memory_bytes = 256u << 20;  // of values alive at one time
  std::optional<std::time_t> now;         // what strftime_now sees; unset: the clock
};

namespace chat {
struct Program;
}

/// A parsed template. Immutable; safe to share between threads.
class ChatTemplate {
 public:
  /// Errors name the line and the construct: invalid_argument (syntax, bytes that are no UTF-8),
  /// unsupported (include, extends, import, unknown tags), resource_exhausted (depth, size).
  static Result<ChatTemplate> parse(std::string_view text, const ChatLimits& limits = {});

  /// `variables`: a JSON object, each member one variable ("messages", "add_generation_prompt",
  /// "bos_token", "tools", ...). Errors: invalid_argument (no such JSON; what the template refuses
  /// with raise_exception or gets wrong, with its line), resource_exhausted (a limit, by name),
  /// out_of_range (integers beyond 127 bits), unsupported (an unknown filter, test or method).
  Result<std::string> render(std::string_view variables, const ChatLimits& limits = {}) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const chat::Program> program);
  std::shared_ptr<const chat::Program> program_;
};

/// What a GGUF says about its chats.
struct ChatFile {
  std::string chat_template;         // tokenizer.chat_template
  std::string bos_token, eos_token;  // spelt out; empty where the file names none
};

/// Reads metadata only, no weights; the tokeniser need not be one that herd knows.
/// Errors: those of opening the file; not_found without a chat template; corrupt ids.
Result<ChatFile> read_chat_file(const std::string& path);

}  // namespace herd
