// The two kinds of tokeniser behind Tokenizer::from_gguf.
#pragma once

#include <memory>

#include "token/tokenizer.h"
#include "token/vocabulary.h"

namespace herd {

std::shared_ptr<const Tokenizer> make_spm_tokenizer(Vocabulary vocabulary);
std::shared_ptr<const Tokenizer> make_bpe_tokenizer(Vocabulary vocabulary);

}  // namespace herd
