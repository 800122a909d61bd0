#include "sampling_flags.h"

#include "json.h"

namespace cli {

void SamplingFlags::add(CLI::App& app) {
  herd::SamplingParams& s = params;
  app.add_option("--temperature", s.temperature, "0 is greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", s.top_k, "keep the k likeliest; 0: off")->capture_default_str();
  app.add_option("--top-p", s.top_p, "keep the likeliest that together reach p")
      ->capture_default_str();
  app.add_option("--min-p", s.min_p, "drop those below min-p times the likeliest")
      ->capture_default_str();
  app.add_option("--seed", s.seed, "a token's draw depends on the seed and its position only")
      ->capture_default_str();
  app.add_option("--repetition-penalty", s.repetition_penalty, "1: off")->capture_default_str();
  app.add_option("--presence-penalty", s.presence_penalty, "0: off")->capture_default_str();
  app.add_option("--frequency-penalty", s.frequency_penalty, "0: off")->capture_default_str();
  app.add_option("--logit-bias", biases, "ID=VALUE, may be repeated")->allow_extra_args(false);
}

herd::Status SamplingFlags::parse_biases() {
  for (const std::string& text : biases) {
    const std::size_t equals = std::min(text.find('='), text.size());
    const auto id = parse_json(text.substr(0, equals));
    const auto value = parse_json(text.substr(std::min(equals + 1, text.size())));
    if (!is_token_id(id) || !value.is_number())
      return {herd::Code::invalid_argument, "--logit-bias " + text + ": must be ID=VALUE"};
    params.logit_bias.emplace_back(id.get<herd::TokenId>(), value.get<float>());
  }
  return {};
}

}  // namespace cli
