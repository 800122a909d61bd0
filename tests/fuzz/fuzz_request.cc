// Any bytes as the body of each route.
#include "fuzz.h"

#include <string>

#include "apps/server/request.h"

namespace {

using namespace herd::fuzz;
using server::ApiError;
using server::ApiRequest;
using server::Endpoint;

void check_error(const ApiError& error) {
  check(error.status == 400);
  check(valid_utf8(server::error_json(error)));
  check(!error.message.empty() && error.message.find('\n') == std::string::npos);
}

void check_request(const ApiRequest& r, const server::Limits& limits) {
  check(r.n >= 1 && r.n <= limits.choices && r.choices() <= limits.choices);
  check(r.logprobs >= -1 && r.logprobs <= limits.logprobs);
  check(r.max_tokens >= -1 && r.max_tokens <= 1 << 24);
  check(r.prompts.size() <= limits.prompts && r.stop.size() <= limits.stops);
  for (const std::string& stop : r.stop) check(!stop.empty() && stop.size() <= limits.stop_bytes);
  check(r.sampling.logit_bias.size() <= limits.logit_biases && r.sampling.top_k >= 0);
  for (const auto& [id, bias] : r.sampling.logit_bias)
    check(id >= 0 && bias >= -100 && bias <= 100);
  check(r.sampling.temperature >= 0 && r.sampling.temperature <= 2);
  for (const server::Prompt& prompt : r.prompts)
    if (const auto* ids = std::get_if<std::vector<herd::TokenId>>(&prompt)) {
      check(!ids->empty());
      for (const herd::TokenId id : *ids) check(id >= 0);
    }
  if (r.endpoint == Endpoint::chat)
    check(server::parse_json(r.messages, limits.json_depth).is_array());
  else
    check(!r.prompts.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body = text_of(data, size);
  const server::Limits limits;
  for (const Endpoint endpoint : {Endpoint::completions, Endpoint::chat}) {
    const auto parsed = server::parse_request(endpoint, body, limits);
    if (const auto* error = std::get_if<ApiError>(&parsed))
      check_error(*error);
    else
      check_request(std::get<ApiRequest>(parsed), limits);
  }
  const auto text = server::parse_tokenize(body, limits);
  if (const auto* error = std::get_if<ApiError>(&text)) check_error(*error);
  const auto ids = server::parse_detokenize(body, limits);
  if (const auto* error = std::get_if<ApiError>(&ids)) check_error(*error);
  return 0;
}
