// From an API request to the engine's.
#pragma once

#include <vector>

#include "herd/llama.h"
#include "request.h"
#include "response.h"

namespace server {

/// Answer `choice` to a prompt. Its seed is the request's plus `choice`, or random if it has none:
/// answer 0 of a request with a seed is what herd generate gives for that seed.
herd::GenerateRequest to_generate_request(const ApiRequest& request,
                                          std::vector<herd::TokenId> prompt, int choice,
                                          std::int32_t context);

/// What an answer to a prompt of so many tokens may cost as JSON, about.
double longest_answer_bytes(const ApiRequest& request, std::size_t prompt_tokens,
                            std::int32_t context);

/// An id nobody else has, and the time.
Envelope new_envelope(Endpoint endpoint, const std::string& model);

}  // namespace server
