#include "response.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace server {
namespace {

std::string piece(const herd::Vocabulary& vocabulary, herd::TokenId id) {
  return id >= 0 && id < vocabulary.size() ? vocabulary.piece(id) : std::string();
}

bool valid_utf8(const std::string& text) {
  try {
    (void)OrderedJson(text).dump();
    return true;
  } catch (const OrderedJson::type_error&) {
    return false;
  }
}

/// A token's text; bytes that are no UTF-8 alone are spelt as OpenAI spells them.
std::string token_text(const herd::Vocabulary& vocabulary, herd::TokenId id) {
  const std::string bytes = piece(vocabulary, id);
  if (valid_utf8(bytes)) return bytes;
  std::string out = "bytes:";
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

/// Characters that begin in `bytes`.
std::int64_t characters(const std::string& bytes) {
  return std::ranges::count_if(bytes, [](char c) { return (c & 0xc0) != 0x80; });
}

OrderedJson number(const std::optional<float>& value) {
  return value ? OrderedJson(*value) : OrderedJson(nullptr);
}

OrderedJson chat_token(const herd::Vocabulary& vocabulary, herd::TokenId id, float logprob) {
  const std::string bytes = piece(vocabulary, id);
  auto list = OrderedJson::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return {{"token", bytes}, {"logprob", logprob}, {"bytes", std::move(list)}};
}

/// The n likeliest, and the token itself where it is none of them.
OrderedJson top_by_text(const LoggedToken& token, const herd::Vocabulary& vocabulary) {
  if (!token.logprob) return nullptr;
  auto out = OrderedJson::object();
  const auto add = [&](herd::TokenId id, float logprob) {
    const std::string text = token_text(vocabulary, id);
    if (!out.contains(text)) out[text] = logprob;  // of two spelt alike, the likelier
  };
  for (const auto& [id, logprob] : token.top) add(id, logprob);
  add(token.id, *token.logprob);
  return out;
}

OrderedJson finish_text(herd::FinishReason reason) {
  if (reason == herd::FinishReason::none) return nullptr;
  return reason == herd::FinishReason::length ? "length" : "stop";
}

std::string sse(const OrderedJson& json) {
  return "data: " + dump(json) + "\n\n";
}

}  // namespace

OrderedJson completion_logprobs(const std::vector<LoggedToken>& tokens,
                                const herd::Vocabulary& vocabulary, std::int64_t& offset) {
  auto texts = OrderedJson::array(), logprobs = texts, tops = texts, offsets = texts;
  for (const LoggedToken& token : tokens) {
    texts.push_back(token_text(vocabulary, token.id));
    logprobs.push_back(number(token.logprob));
    tops.push_back(top_by_text(token, vocabulary));
    offsets.push_back(offset);
    offset += characters(piece(vocabulary, token.id));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

OrderedJson chat_logprobs(const std::vector<LoggedToken>& tokens,
                          const herd::Vocabulary& vocabulary) {
  auto content = OrderedJson::array();
  for (const LoggedToken& token : tokens) {
    OrderedJson item = chat_token(vocabulary, token.id, token.logprob.value_or(0));
    auto top = OrderedJson::array();
    for (const auto& [id, logprob] : token.top) top.push_back(chat_token(vocabulary, id, logprob));
    item["top_logprobs"] = std::move(top);
    content.push_back(std::move(item));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Response::Response(const ApiRequest& request, Envelope envelope, std::vector<PromptText> prompts,
                   herd::Vocabulary vocabulary)
    : request_(request),
      envelope_(std::move(envelope)),
      prompts_(std::move(prompts)),
      vocabulary_(std::move(vocabulary)),
      sequences_(prompts_.size() * static_cast<std::size_t>(request.choices())) {}

const Response::PromptText& Response::prompt_of(std::size_t sequence) const {
  return prompts_[sequence / static_cast<std::size_t>(request_.choices())];
}

// ---- events ----

/// With echo the answer begins with the prompt.
void Response::begin(std::size_t sequence, Sequence& s) {
  if (!request_.echo) return;
  const PromptText& prompt = prompt_of(sequence);
  s.text += prompt.text;
  if (request_.logprobs < 0) return;
  s.tokens.push_back({prompt.ids[0], {}, {}});
  if (prompt.bos_added) s.offset = -characters(piece(vocabulary_, prompt.ids[0]));
}

void Response::note_tokens(Sequence& s, herd::Event& event) {
  for (herd::TokenLogprob& each : event.prompt_logprobs)
    s.tokens.push_back({each.id, each.logprob, std::move(each.top)});
  if (event.logprob) {
    s.logprob_sum += static_cast<double>(event.logprob->logprob);
    if (request_.logprobs >= 0)
      s.tokens.push_back(
          {event.logprob->id, event.logprob->logprob, std::move(event.logprob->top)});
  }
  if (event.id >= 0) s.ids.push_back(event.id);
}

std::string Response::take(std::size_t sequence, herd::Event&& event) {
  Sequence& s = sequences_[sequence];
  const bool first = !std::exchange(s.begun, true);
  if (first) begin(sequence, s);
  note_tokens(s, event);
  s.text += event.text;
  s.finish = event.finish_reason;
  s.usage = event.usage;
  if (s.finish != herd::FinishReason::none) ++ended_;
  if (!request_.stream) return {};
  const bool nothing = s.text.empty() && s.tokens.empty() && s.finish == herd::FinishReason::none &&
                       !(first && request_.endpoint == Endpoint::chat) &&
                       !(request_.return_ids && !s.ids.empty());
  if (nothing) return {};
  auto choices = OrderedJson::array();
  choices.push_back(choice(sequence, s, sequence, first));
  s.text.clear();
  s.tokens.clear();
  s.ids.clear();
  return chunk(std::move(choices));
}

// ---- JSON ----

OrderedJson Response::content(const Sequence& s, bool first) const {
  OrderedJson out = OrderedJson::object();
  if (request_.endpoint == Endpoint::completions) {
    out["text"] = s.text;
  } else if (request_.stream) {
    auto delta = OrderedJson::object();
    if (first) delta["role"] = "assistant";
    if (first || !s.text.empty()) delta["content"] = s.text;
    out["delta"] = std::move(delta);
  } else {
    out["message"] = {{"role", "assistant"}, {"content", s.text}, {"refusal", nullptr}};
  }
  return out;
}

OrderedJson Response::choice(std::size_t sequence, Sequence& s, std::size_t index,
                             bool first) const {
  OrderedJson out = {{"index", index}};
  out.update(content(s, first));
  out["logprobs"] = nullptr;
  if (request_.logprobs >= 0)
    out["logprobs"] = request_.endpoint == Endpoint::chat
                          ? chat_logprobs(s.tokens, vocabulary_)
                          : completion_logprobs(s.tokens, vocabulary_, s.offset);
  out["finish_reason"] = finish_text(s.finish);
  if (request_.return_ids) {
    if (first) out["prompt_token_ids"] = prompt_of(sequence).ids;
    out["token_ids"] = s.ids;
  }
  return out;
}

OrderedJson Response::envelope(OrderedJson choices) const {
  const bool chat = request_.endpoint == Endpoint::chat;
  const char* object = !chat             ? "text_completion"
                       : request_.stream ? "chat.completion.chunk"
                                         : "chat.completion";
  return {{"id", envelope_.id},
          {"object", object},
          {"created", envelope_.created},
          {"model", envelope_.model},
          {"choices", std::move(choices)}};
}

OrderedJson Response::usage() const {
  std::int64_t prompt = 0, cached = 0, answer = 0;
  for (const PromptText& each : prompts_) prompt += std::ssize(each.ids);
  const auto choices = static_cast<std::size_t>(request_.choices());
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    answer += sequences_[i].usage.answer_tokens;
    if (i % choices == 0) cached += sequences_[i].usage.cached_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", answer},
          {"total_tokens", prompt + answer},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

std::string Response::chunk(OrderedJson choices) const {
  OrderedJson out = envelope(std::move(choices));
  if (request_.include_usage) out["usage"] = nullptr;
  return sse(out);
}

/// The n answers to a prompt with the best mean log-probability, in the order of the answers when
/// all are asked for.
std::vector<std::size_t> Response::best(std::size_t prompt) const {
  const auto choices = static_cast<std::size_t>(request_.choices());
  std::vector<std::size_t> order(choices);
  std::iota(order.begin(), order.end(), prompt * choices);
  if (request_.best_of > request_.n)
    std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) {
      const Sequence& s = sequences_[i];
      return s.logprob_sum / std::max(1, s.usage.answer_tokens);
    });
  order.resize(static_cast<std::size_t>(request_.n));
  return order;
}

std::string Response::whole() {
  auto choices = OrderedJson::array();
  for (std::size_t p = 0; p < prompts_.size(); ++p)
    for (const std::size_t i : best(p))
      choices.push_back(choice(i, sequences_[i], choices.size(), true));
  OrderedJson out = envelope(std::move(choices));
  out["usage"] = usage();
  return dump(out);
}

std::string Response::last_bytes() const {
  std::string out;
  if (request_.include_usage) {
    OrderedJson last = envelope(OrderedJson::array());
    last["usage"] = usage();
    out = sse(last);
  }
  return out + "data: [DONE]\n\n";
}

}  // namespace server
