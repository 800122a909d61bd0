#include "generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <random>

namespace server {
namespace {

std::uint64_t random_bits() {
  thread_local std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

}  // namespace

herd::GenerateRequest to_generate_request(const ApiRequest& request,
                                          std::vector<herd::TokenId> prompt, int choice,
                                          std::int32_t context) {
  herd::GenerateRequest out;
  out.ids = std::move(prompt);
  out.max_tokens = request.max_tokens < 0 ? context : request.max_tokens;
  out.sampling = request.sampling;
  out.sampling.seed =
      request.has_seed ? request.sampling.seed + static_cast<std::uint64_t>(choice) : random_bits();
  out.stop = request.stop;
  out.stop_ids = request.stop_ids;
  out.ignore_end = request.ignore_eos;
  out.logprobs = request.best_of > request.n ? std::max(0, request.logprobs) : request.logprobs;
  out.prompt_logprobs = request.echo && request.logprobs >= 0;
  out.format = request.format;
  return out;
}

double longest_answer_bytes(const ApiRequest& request, std::size_t prompt_tokens,
                            std::int32_t context) {
  constexpr double kTextBytes = 8, kTokenBytes = 80, kTopBytes = 40;
  const double room = std::max(0.0, context - static_cast<double>(prompt_tokens)) + 1;
  double tokens = request.max_tokens < 0 ? room : std::min<double>(room, request.max_tokens);
  if (request.echo) tokens += static_cast<double>(prompt_tokens);
  const double each =
      kTextBytes + (request.logprobs < 0 ? 0 : kTokenBytes + kTopBytes * request.logprobs);
  return tokens * each * request.choices();
}

Envelope new_envelope(Endpoint endpoint, const std::string& model) {
  return {fmt::format("{}-{:016x}{:016x}", endpoint == Endpoint::chat ? "chatcmpl" : "cmpl",
                      random_bits(), random_bits()),
          model, std::time(nullptr)};
}

}  // namespace server
