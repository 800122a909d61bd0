// A request's JSON, checked: one table of field, type and range for each route.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "herd/llama.h"
#include "http.h"
#include "json.h"
#include "limits.h"

namespace server {

enum class Endpoint { completions, chat };

/// text, or ids as they are.
using Prompt = std::variant<std::string, std::vector<herd::TokenId>>;

/// A request of /v1/completions or /v1/chat/completions. Numbers are within the ranges of the table
/// in request.cc; whether ids are in the vocabulary the engine says.
struct ApiRequest {
  Endpoint endpoint = Endpoint::completions;
  std::string model;
  std::vector<Prompt> prompts;  // completions: at least one
  std::string messages;         // chat: a JSON list of {role, content, name}
  int max_tokens = -1;          // -1: what the context leaves
  int n = 1;
  int best_of = 0;  // 0: as n
  int logprobs = -1;
  bool echo = false, stream = false, include_usage = false, ignore_eos = false, return_ids = false;
  herd::SamplingParams sampling;  // its seed is used if has_seed
  bool has_seed = false;
  std::vector<std::string> stop;
  std::vector<herd::TokenId> stop_ids;
  herd::AnswerFormat format;

  int choices() const { return best_of > n ? best_of : n; }  // sequences a prompt
};

template <class T>
using ApiResult = std::variant<T, ApiError>;

/// Errors: 400, naming the field, its value and the range.
ApiResult<ApiRequest> parse_request(Endpoint endpoint, std::string_view body, const Limits& limits);

struct TokenizeRequest {
  std::string text;
  bool add_special = true;
};
ApiResult<TokenizeRequest> parse_tokenize(std::string_view body, const Limits& limits);
ApiResult<std::vector<herd::TokenId>> parse_detokenize(std::string_view body, const Limits& limits);

}  // namespace server
