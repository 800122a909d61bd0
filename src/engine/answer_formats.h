// From a request's format to the grammar that holds its answer to it.
#pragma once

#include <memory>
#include <mutex>

#include "constrain/grammars.h"
#include "herd/llama.h"
#include "token/tokenizer.h"

namespace herd {

/// Thread-safe. The vocabulary is prepared when first needed.
class AnswerFormats {
 public:
  /// Null for text. `vocab`: ids of the model; those beyond the tokeniser's are never allowed.
  /// Errors: constrain::Grammars::get's.
  Result<std::shared_ptr<constrain::Grammar>> grammar(const AnswerFormat& format,
                                                      const Tokenizer& tokenizer,
                                                      std::int32_t vocab);

 private:
  std::once_flag once_;
  std::unique_ptr<constrain::Grammars> grammars_;
};

}  // namespace herd
