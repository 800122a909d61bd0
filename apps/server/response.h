// Events of an engine as OpenAI's JSON: whole answers, and chunks of a stream.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "herd/engine.h"
#include "herd/vocabulary.h"
#include "json.h"
#include "request.h"

namespace server {

/// A token with what was asked about it.
struct LoggedToken {
  herd::TokenId id = 0;
  std::optional<float> logprob;  // none: the first of a prompt
  std::vector<std::pair<herd::TokenId, float>> top;
};

/// "logprobs" of /v1/completions. `offset`: characters of the text so far; moves on.
OrderedJson completion_logprobs(const std::vector<LoggedToken>& tokens,
                                const herd::Vocabulary& vocabulary, std::int64_t& offset);
/// "logprobs" of /v1/chat/completions.
OrderedJson chat_logprobs(const std::vector<LoggedToken>& tokens,
                          const herd::Vocabulary& vocabulary);

/// What all JSON of one response says.
struct Envelope {
  std::string id, model;
  std::int64_t created = 0;  // seconds since 1970
};

/// Turns the events of a request's sequences into its response. Sequence p * choices() + c is
/// answer c to prompt p.
class Response {
 public:
  struct PromptText {
    std::string text;  // for echo
    std::vector<herd::TokenId> ids;
    bool bos_added = false;  // ids[0] is no part of the text
  };
  Response(const ApiRequest& request, Envelope envelope, std::vector<PromptText> prompts,
           herd::Vocabulary vocabulary);

  /// Takes an event in. Of a stream: the bytes to send for it, "data: ...\n\n" or nothing.
  /// REQUIRES: it is none of an error.
  std::string take(std::size_t sequence, herd::Event&& event);
  bool done() const { return ended_ == sequences_.size(); }

  /// REQUIRES: done(). Not of a stream: the body.
  std::string whole();
  /// REQUIRES: done(). Of a stream: its last bytes.
  std::string last_bytes() const;

 private:
  struct Sequence {
    std::string text;
    std::vector<LoggedToken> tokens;
    std::vector<herd::TokenId> ids;
    herd::FinishReason finish = herd::FinishReason::none;
    herd::Usage usage;
    std::int64_t offset = 0;  // characters of the text, for text_offset
    double logprob_sum = 0;   // of the answer's tokens, for best_of
    bool begun = false;
  };
  const PromptText& prompt_of(std::size_t sequence) const;
  void begin(std::size_t sequence, Sequence& s);
  void note_tokens(Sequence& s, herd::Event& event);
  OrderedJson choice(std::size_t sequence, Sequence& s, std::size_t index, bool first) const;
  OrderedJson content(const Sequence& s, bool first) const;
  OrderedJson envelope(OrderedJson choices) const;
  OrderedJson usage() const;
  std::string chunk(OrderedJson choices) const;
  std::vector<std::size_t> best(std::size_t prompt) const;

  ApiRequest request_;
  Envelope envelope_;
  std::vector<PromptText> prompts_;
  herd::Vocabulary vocabulary_;
  std::vector<Sequence> sequences_;
  std::size_t ended_ = 0;
};

}  // namespace server
