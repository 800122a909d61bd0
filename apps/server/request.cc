#include "request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

namespace server {
namespace {

using Failure = std::optional<ApiError>;
/// Reads a field that is no plain number, text or flag.
using Reader = Failure (*)(std::string_view name, const Json&, const Limits&, ApiRequest&);
struct Ignored {};      // OpenAI's clients send it; it changes no answer
struct Unsupported {};  // null or empty at most
using Target = std::variant<bool ApiRequest::*, int ApiRequest::*, std::string ApiRequest::*,
                            float herd::SamplingParams::*, int herd::SamplingParams::*, Reader,
                            Ignored, Unsupported>;

struct Field {
  std::string_view name;
  Target target;
  double min = 0, max = 0;  // of numbers, both allowed
};

constexpr double kMostTokens = 1 << 24;
constexpr double kInt = std::numeric_limits<int>::max();

ApiError wrong_type(std::string_view name, std::string_view wanted, const Json& value) {
  return bad_field(name, fmt::format("{} must be {}, not {}", name, wanted, value.type_name()));
}

// ---- plain fields ----

Failure read_number(const Field& field, const Json& value, bool whole, double& out) {
  if (whole ? !value.is_number_integer() : !value.is_number())
    return wrong_type(field.name, whole ? "a whole number" : "a number", value);
  out = value.get<double>();
  if (!(out >= field.min && out <= field.max))
    return bad_field(field.name, fmt::format("{} is {}, must be in [{}, {}]", field.name,
                                             shown(value.dump()), field.min, field.max));
  return {};
}

template <class Owner, class T>
Failure set_number(const Field& field, const Json& value, Owner& owner, T Owner::*member) {
  double number = 0;
  if (auto failure = read_number(field, value, std::is_integral_v<T>, number)) return failure;
  owner.*member = static_cast<T>(number);
  return {};
}

Failure set_text(const Field& field, const Json& value, std::string& out) {
  if (!value.is_string()) return wrong_type(field.name, "a string", value);
  out = value.get<std::string>();
  return {};
}

Failure set_flag(const Field& field, const Json& value, bool& out) {
  if (!value.is_boolean()) return wrong_type(field.name, "true or false", value);
  out = value.get<bool>();
  return {};
}

Failure refuse(const Field& field, const Json& value) {
  const bool nothing = value == false || ((value.is_array() || value.is_object()) && value.empty());
  if (nothing) return {};
  return bad_field(field.name, fmt::format("{} is not supported", field.name));
}

struct SetField {
  const Field& field;
  const Json& value;
  const Limits& limits;
  ApiRequest& request;

  Failure operator()(bool ApiRequest::*m) const { return set_flag(field, value, request.*m); }
  Failure operator()(std::string ApiRequest::*m) const {
    return set_text(field, value, request.*m);
  }
  Failure operator()(int ApiRequest::*m) const { return set_number(field, value, request, m); }
  Failure operator()(float herd::SamplingParams::*m) const {
    return set_number(field, value, request.sampling, m);
  }
  Failure operator()(int herd::SamplingParams::*m) const {
    return set_number(field, value, request.sampling, m);
  }
  Failure operator()(Reader read) const { return read(field.name, value, limits, request); }
  Failure operator()(Ignored) const { return {}; }
  Failure operator()(Unsupported) const { return refuse(field, value); }
};

// ---- fields with a shape of their own ----

Failure read_ids(std::string_view name, const Json& list, std::vector<herd::TokenId>& out) {
  if (!list.is_array()) return wrong_type(name, "a list of token ids", list);
  out.reserve(list.size());
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<herd::TokenId>::max())
      return bad_field(name, fmt::format("{}: {} is no token id", name, shown(id.dump())));
    out.push_back(id.get<herd::TokenId>());
  }
  return {};
}

/// One prompt: text or ids.
Failure read_prompt(std::string_view name, const Json& value, ApiRequest& request) {
  if (value.is_string()) {
    request.prompts.emplace_back(value.get<std::string>());
    return {};
  }
  std::vector<herd::TokenId> ids;
  if (auto failure = read_ids(name, value, ids)) return failure;
  if (ids.empty()) return bad_field(name, "prompt: an empty list of token ids");
  request.prompts.emplace_back(std::move(ids));
  return {};
}

/// Text, ids, or a list of either.
Failure read_prompts(std::string_view name, const Json& value, const Limits& limits,
                     ApiRequest& request) {
  const bool many =
      value.is_array() && !value.empty() && (value[0].is_string() || value[0].is_array());
  if (!many) return read_prompt(name, value, request);
  if (value.size() > limits.prompts)
    return bad_field(name, fmt::format("prompt: {} prompts, at most {} a request", value.size(),
                                       limits.prompts));
  for (const Json& each : value)
    if (auto failure = read_prompt(name, each, request)) return failure;
  return {};
}

Failure read_stop(std::string_view name, const Json& value, const Limits& limits,
                  ApiRequest& request) {
  const Json list = value.is_string() ? Json::array({value}) : value;
  if (!list.is_array()) return wrong_type(name, "a string or a list of strings", value);
  if (list.size() > limits.stops)
    return bad_field(name, fmt::format("stop: {} strings, at most {}", list.size(), limits.stops));
  for (const Json& each : list) {
    if (!each.is_string()) return wrong_type(name, "a string or a list of strings", each);
    auto text = each.get<std::string>();
    if (text.empty() || text.size() > limits.stop_bytes)
      return bad_field(name, fmt::format("stop: a string of {} bytes, must have 1 to {}",
                                         text.size(), limits.stop_bytes));
    request.stop.push_back(std::move(text));
  }
  return {};
}

Failure read_stop_ids(std::string_view name, const Json& value, const Limits&,
                      ApiRequest& request) {
  constexpr std::size_t kMost = 64;
  if (value.is_array() && value.size() > kMost)
    return bad_field(name, fmt::format("{}: {} ids, at most {}", name, value.size(), kMost));
  return read_ids(name, value, request.stop_ids);
}

Failure read_bias(std::string_view name, const Json& value, const Limits& limits,
                  ApiRequest& request) {
  if (!value.is_object()) return wrong_type(name, "an object of token id: bias", value);
  if (value.size() > limits.logit_biases)
    return bad_field(
        name, fmt::format("logit_bias: {} entries, at most {}", value.size(), limits.logit_biases));
  for (const auto& [key, bias] : value.items()) {
    herd::TokenId id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      return bad_field(name, fmt::format("logit_bias: \"{}\" is no token id", shown(key)));
    double number = 0;
    if (auto failure = read_number({name, {}, -100, 100}, bias, false, number)) return failure;
    request.sampling.logit_bias.emplace_back(id, static_cast<float>(number));
  }
  return {};
}

Failure read_seed(std::string_view name, const Json& value, const Limits&, ApiRequest& request) {
  if (!value.is_number_integer()) return wrong_type(name, "a whole number", value);
  request.sampling.seed = value.is_number_unsigned()
                              ? value.get<std::uint64_t>()
                              : static_cast<std::uint64_t>(value.get<std::int64_t>());
  request.has_seed = true;
  return {};
}

Failure read_stream_options(std::string_view name, const Json& value, const Limits&,
                            ApiRequest& request) {
  if (!value.is_object()) return wrong_type(name, "an object", value);
  for (const auto& [key, each] : value.items()) {
    if (key == "include_obfuscation") continue;
    if (key != "include_usage")
      return bad_field(name, fmt::format("stream_options: unknown member \"{}\"", shown(key)));
    const Field field{"stream_options.include_usage", {}};
    if (auto failure = set_flag(field, each, request.include_usage)) return failure;
  }
  return {};
}

Failure read_top_k(std::string_view name, const Json& value, const Limits&, ApiRequest& request) {
  const Field field{name, {}, -1, kInt};
  if (auto f = set_number(field, value, request.sampling, &herd::SamplingParams::top_k)) return f;
  request.sampling.top_k = std::max(0, request.sampling.top_k);  // -1: off, as others spell it
  return {};
}

// ---- chat ----

/// The text of a message: a string, or a list of parts of type text.
Failure read_content(std::string_view name, const Json& content, std::string& out) {
  if (content.is_null()) return {};
  if (content.is_string()) {
    out = content.get<std::string>();
    return {};
  }
  if (!content.is_array()) return wrong_type(name, "a string or a list of parts", content);
  for (const Json& part : content) {
    const bool text = part.is_object() && part.contains("type") && part["type"] == "text" &&
                      part.contains("text") && part["text"].is_string();
    if (!text)
      return bad_field(name, fmt::format("{}: only parts {{\"type\": \"text\", \"text\": ...}} are "
                                         "supported",
                                         name));
    out += part["text"].get<std::string>();
  }
  return {};
}

/// A message with the members that templates may see, and no others.
Failure read_message(const std::string& name, const Json& value, OrderedJson& out) {
  if (!value.is_object()) return wrong_type(name, "an object", value);
  for (const auto& [key, each] : value.items()) {
    const bool empty = each.is_null() || ((each.is_array() || each.is_object()) && each.empty());
    if (key != "role" && key != "content" && key != "name" && !empty)
      return bad_field(name, fmt::format("{}.{} is not supported", name, shown(key)));
  }
  if (!value.contains("role") || !value["role"].is_string())
    return bad_field(name, fmt::format("{}.role must be a string", name));
  auto role = value["role"].get<std::string>();
  if (role == "developer") role = "system";
  if (role != "system" && role != "user" && role != "assistant" && role != "tool")
    return bad_field(name, fmt::format("{}.role is \"{}\", must be system, developer, user, "
                                       "assistant or tool",
                                       name, shown(role)));
  std::string content;
  if (auto failure = read_content(name + ".content", value.value("content", Json()), content))
    return failure;
  out = {{"role", role}, {"content", content}};
  if (const Json who = value.value("name", Json()); who.is_string()) out["name"] = who;
  return {};
}

Failure read_messages(std::string_view name, const Json& value, const Limits& limits,
                      ApiRequest& request) {
  if (!value.is_array() || value.empty())
    return bad_field(name, "messages must be a list of at least one message");
  if (value.size() > limits.messages)
    return bad_field(
        name, fmt::format("messages: {} messages, at most {}", value.size(), limits.messages));
  auto list = OrderedJson::array();
  for (std::size_t i = 0; i < value.size(); ++i) {
    OrderedJson message;
    if (auto f = read_message(fmt::format("messages[{}]", i), value[i], message)) return f;
    list.push_back(std::move(message));
  }
  request.messages = dump(list);
  return {};
}

Failure read_format(std::string_view name, const Json& value, const Limits&, ApiRequest& request) {
  const Json kind = value.is_object() ? value.value("type", Json()) : Json();
  if (kind == "text") return {};
  if (kind == "json_object") {
    request.format.kind = herd::AnswerFormat::Kind::json_object;
    return {};
  }
  if (kind != "json_schema")
    return bad_field(name,
                     "response_format.type must be \"text\", \"json_object\" or \"json_schema\"");
  const Json outer = value.value("json_schema", Json());
  if (!outer.is_object() || !outer.contains("schema") || !outer["schema"].is_object())
    return bad_field(name, "response_format.json_schema.schema must be an object");
  request.format = {herd::AnswerFormat::Kind::json_schema, outer["schema"].dump()};
  return {};
}

// ---- the tables ----

using S = herd::SamplingParams;
using R = ApiRequest;

std::vector<Field> shared_fields(const Limits& limits) {
  const double choices = limits.choices;
  return {
      {"model", &R::model},
      {"n", &R::n, 1, choices},
      {"stream", &R::stream},
      {"stream_options", &read_stream_options},
      {"stop", &read_stop},
      {"seed", &read_seed},
      {"temperature", &S::temperature, 0, 2},
      {"top_p", &S::top_p, 0, 1},
      {"presence_penalty", &S::presence_penalty, -2, 2},
      {"frequency_penalty", &S::frequency_penalty, -2, 2},
      {"logit_bias", &read_bias},
      // extensions
      {"top_k", &read_top_k},
      {"min_p", &S::min_p, 0, 1},
      {"repetition_penalty", &S::repetition_penalty, 0, 10},
      {"stop_token_ids", &read_stop_ids},
      {"ignore_eos", &R::ignore_eos},
      {"return_token_ids", &R::return_ids},
      {"user", Ignored{}},
      {"metadata", Ignored{}},
      {"store", Ignored{}},
      {"service_tier", Ignored{}},
      {"safety_identifier", Ignored{}},
      {"prompt_cache_key", Ignored{}},
  };
}

std::vector<Field> fields_of(Endpoint endpoint, const Limits& limits) {
  std::vector<Field> fields = shared_fields(limits);
  const double choices = limits.choices, logprobs = limits.logprobs;
  const std::vector<Field> completions = {
      {"prompt", &read_prompts},
      {"max_tokens", &R::max_tokens, 0, kMostTokens},
      {"best_of", &R::best_of, 1, choices},
      {"echo", &R::echo},
      {"logprobs", &R::logprobs, 0, logprobs},
      {"suffix", Unsupported{}},
  };
  const std::vector<Field> chat = {
      {"messages", &read_messages},
      {"max_tokens", &R::max_tokens, 1, kMostTokens},
      {"max_completion_tokens", &R::max_tokens, 1, kMostTokens},
      {"response_format", &read_format},
      {"parallel_tool_calls", Ignored{}},
      {"reasoning_effort", Ignored{}},
      {"verbosity", Ignored{}},
      {"tools", Unsupported{}},
      {"tool_choice",
       [](std::string_view name, const Json& value, const Limits&, R&) -> Failure {
         if (value == "none" || value == "auto") return {};
         return bad_field(name, "tool_choice is not supported");
       }},
      {"functions", Unsupported{}},
      {"function_call", Unsupported{}},
      {"modalities", Unsupported{}},
      {"audio", Unsupported{}},
      {"prediction", Unsupported{}},
      {"web_search_options", Unsupported{}},
  };
  const auto& more = endpoint == Endpoint::chat ? chat : completions;
  fields.insert(fields.end(), more.begin(), more.end());
  return fields;
}

ApiResult<Json> parse_object(std::string_view body, const Limits& limits) {
  Json json = parse_json(body, limits.json_depth);
  if (json.is_discarded())
    return bad_field(
        "", fmt::format("the body is not valid JSON, or nests deeper than {}", limits.json_depth));
  if (!json.is_object()) return bad_field("", "the body must be a JSON object");
  return json;
}

/// OpenAI's chat: "logprobs" is a flag, "top_logprobs" the number.
Failure read_chat_logprobs(const Json& json, const Limits& limits, ApiRequest& request) {
  bool wanted = false;
  const Json flag = json.value("logprobs", Json()), top = json.value("top_logprobs", Json());
  if (!flag.is_null())
    if (auto failure = set_flag({"logprobs", {}}, flag, wanted)) return failure;
  if (wanted) request.logprobs = 0;
  if (top.is_null()) return {};
  if (!wanted) return bad_field("top_logprobs", "top_logprobs needs logprobs: true");
  const Field field{"top_logprobs", {}, 0, static_cast<double>(limits.logprobs)};
  return set_number(field, top, request, &R::logprobs);
}

Failure read_fields(Endpoint endpoint, const Json& json, const Limits& limits,
                    ApiRequest& request) {
  static const auto is_chat_logprobs = [](std::string_view key) {
    return key == "logprobs" || key == "top_logprobs";
  };
  const std::vector<Field> fields = fields_of(endpoint, limits);
  for (const auto& [key, value] : json.items()) {
    if (endpoint == Endpoint::chat && is_chat_logprobs(key)) continue;
    const auto field = std::ranges::find(fields, key, &Field::name);
    if (field == fields.end())
      return bad_field(shown(key), fmt::format("unknown field \"{}\"", shown(key)));
    if (value.is_null()) continue;  // as if it were absent
    if (auto failure = std::visit(SetField{*field, value, limits, request}, field->target))
      return failure;
  }
  if (endpoint == Endpoint::chat) return read_chat_logprobs(json, limits, request);
  return {};
}

/// What no single field shows.
Failure check_whole(const ApiRequest& r) {
  if (r.endpoint == Endpoint::completions && r.prompts.empty())
    return bad_field("prompt", "prompt is missing");
  if (r.endpoint == Endpoint::chat && r.messages.empty())
    return bad_field("messages", "messages is missing");
  if (r.best_of != 0 && r.best_of < r.n)
    return bad_field("best_of",
                     fmt::format("best_of is {}, must be at least n, {}", r.best_of, r.n));
  if (r.best_of > r.n && r.stream)
    return bad_field("best_of", "best_of above n cannot be streamed");
  if (r.include_usage && !r.stream)
    return bad_field("stream_options", "stream_options needs stream: true");
  return {};
}

}  // namespace

ApiResult<ApiRequest> parse_request(Endpoint endpoint, std::string_view body,
                                    const Limits& limits) {
  const ApiResult<Json> json = parse_object(body, limits);
  if (const auto* error = std::get_if<ApiError>(&json)) return *error;
  ApiRequest request;
  request.endpoint = endpoint;
  request.sampling.temperature = 1.0f;  // OpenAI's default
  if (endpoint == Endpoint::completions) request.max_tokens = 16;
  if (auto failure = read_fields(endpoint, std::get<Json>(json), limits, request)) return *failure;
  if (auto failure = check_whole(request)) return *failure;
  std::string& schema = request.format.schema;  // its members are written in the order it has them
  if (!schema.empty() && schema.size() <= limits.schema_bytes)
    schema = member_as_written(body, {{"response_format", "json_schema", "schema"}});
  return request;
}

ApiResult<TokenizeRequest> parse_tokenize(std::string_view body, const Limits& limits) {
  const ApiResult<Json> json = parse_object(body, limits);
  if (const auto* error = std::get_if<ApiError>(&json)) return *error;
  TokenizeRequest request;
  bool found = false;
  for (const auto& [key, value] : std::get<Json>(json).items()) {
    Failure failure;
    if (key == "prompt" || key == "content") {
      failure = set_text({"prompt", {}}, value, request.text);
      found = true;
    } else if (key == "add_special_tokens") {
      failure = set_flag({"add_special_tokens", {}}, value, request.add_special);
    } else if (key != "model") {
      failure = bad_field(shown(key), fmt::format("unknown field \"{}\"", shown(key)));
    }
    if (failure) return *failure;
  }
  if (!found) return bad_field("prompt", "prompt is missing");
  return request;
}

ApiResult<std::vector<herd::TokenId>> parse_detokenize(std::string_view body,
                                                       const Limits& limits) {
  const ApiResult<Json> json = parse_object(body, limits);
  if (const auto* error = std::get_if<ApiError>(&json)) return *error;
  std::vector<herd::TokenId> ids;
  bool found = false;
  for (const auto& [key, value] : std::get<Json>(json).items()) {
    if (key == "model") continue;
    if (key != "tokens")
      return bad_field(shown(key), fmt::format("unknown field \"{}\"", shown(key)));
    if (auto failure = read_ids("tokens", value, ids)) return *failure;
    found = true;
  }
  if (!found) return bad_field("tokens", "tokens is missing");
  return ids;
}

}  // namespace server
