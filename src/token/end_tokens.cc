#include "token/end_tokens.h"

#include <algorithm>

#include "token/vocabulary.h"

namespace herd {
namespace {

constexpr std::string_view kEndNames[] = {
    "</s>", "<eos>", "[EOS]", "[EOT]", "<EOT>", "_<EOT>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>",
    "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>",
    "[e~[",
    // Fill-in-the-middle: padding, next repository, next file.
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>",
    "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"};

bool is_end_name(std::string_view token) {
  return std::find(std::begin(kEndNames), std::end(kEndNames), token) != std::end(kEndNames);
}

class EndSet {
 public:
  EndSet(std::span<const std::string> tokens, std::vector<TokenId> ids)
      : tokens_(tokens), ids_(std::move(ids)) {
    std::erase_if(ids_, [](TokenId id) { return id < 0; });
  }

  void add(std::size_t id) { ids_.push_back(static_cast<TokenId>(id)); }
  bool has(std::string_view name) const {
    return std::any_of(ids_.begin(), ids_.end(), [&](TokenId id) { return text(id) == name; });
  }
  void remove(std::string_view name) {
    std::erase_if(ids_, [&](TokenId id) { return text(id) == name; });
  }
  std::vector<TokenId> sorted() && {
    std::sort(ids_.begin(), ids_.end());
    ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
    return std::move(ids_);
  }

 private:
  const std::string& text(TokenId id) const { return tokens_[static_cast<std::size_t>(id)]; }

  std::span<const std::string> tokens_;
  std::vector<TokenId> ids_;
};

}  // namespace

std::vector<TokenId> collect_end_tokens(std::span<const std::string> tokens, bool file_has_types,
                                        std::vector<TokenId> ids, std::span<std::int32_t> types) {
  EndSet ends(tokens, std::move(ids));
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const bool special =
        types[id] == kTypeControl || types[id] == kTypeUserDefined || !file_has_types;
    if (!special || !is_end_name(tokens[id])) continue;
    types[id] = kTypeControl;
    ends.add(id);
  }
  // Two families use a common name for a mere separator inside an answer.
  const bool calls = ends.has("<|call|>") || ends.has("<|calls|>");
  if (calls && (ends.has("<|return|>") || ends.has("<|flush|>"))) ends.remove("<|end|>");
  if (ends.has("<|tool_response>")) ends.remove("</s>");
  return std::move(ends).sorted();
}

}  // namespace herd
