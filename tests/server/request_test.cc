#include "server/request.h"

#include <gtest/gtest.h>

namespace server {
namespace {

const Limits kLimits;

ApiRequest good(Endpoint endpoint, const std::string& body) {
  auto parsed = parse_request(endpoint, body, kLimits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << body << ": " << error->message;
    return {};
  }
  return std::get<ApiRequest>(parsed);
}
ApiError bad(Endpoint endpoint, const std::string& body) {
  const auto parsed = parse_request(endpoint, body, kLimits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return *error;
  ADD_FAILURE() << "taken: " << body.substr(0, 200);
  return {};
}
/// A completion request with this member besides its prompt is refused, naming `param`.
void refused(const std::string& member, const std::string& param) {
  const ApiError error = bad(Endpoint::completions, R"({"prompt": "x", )" + member + "}");
  EXPECT_EQ(error.status, 400) << member;
  EXPECT_EQ(error.param, param) << member << ": " << error.message;
  EXPECT_EQ(error.message.find('\n'), std::string::npos);
}

TEST(Request, ReadsEveryField) {
  const ApiRequest r = good(Endpoint::completions, R"({
    "model": "m", "prompt": "Once", "max_tokens": 5, "n": 2, "best_of": 3, "logprobs": 4,
    "echo": true, "ignore_eos": true, "return_token_ids": true, "stop": ["a", "b"],
    "stop_token_ids": [7], "temperature": 0.5, "top_p": 0.25, "top_k": 9, "min_p": 0.125,
    "repetition_penalty": 1.5, "presence_penalty": -1, "frequency_penalty": 2, "seed": -1,
    "logit_bias": {"3": -100, "40": 1.5}, "user": "somebody", "suffix": null})");
  EXPECT_EQ(r.model, "m");
  ASSERT_EQ(r.prompts.size(), 1u);
  EXPECT_EQ(std::get<std::string>(r.prompts[0]), "Once");
  EXPECT_EQ(r.max_tokens, 5);
  EXPECT_EQ(r.n, 2);
  EXPECT_EQ(r.choices(), 3);
  EXPECT_EQ(r.logprobs, 4);
  EXPECT_TRUE(r.echo && r.ignore_eos && r.return_ids && !r.stream);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(r.stop_ids, (std::vector<herd::TokenId>{7}));
  EXPECT_EQ(r.sampling.temperature, 0.5f);
  EXPECT_EQ(r.sampling.top_p, 0.25f);
  EXPECT_EQ(r.sampling.top_k, 9);
  EXPECT_EQ(r.sampling.min_p, 0.125f);
  EXPECT_EQ(r.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(r.sampling.presence_penalty, -1.0f);
  EXPECT_EQ(r.sampling.frequency_penalty, 2.0f);
  EXPECT_TRUE(r.has_seed);
  EXPECT_EQ(r.sampling.seed, ~std::uint64_t{0});
  using Bias = std::vector<std::pair<herd::TokenId, float>>;
  EXPECT_EQ(r.sampling.logit_bias, (Bias{{3, -100.0f}, {40, 1.5f}}));
}

TEST(Request, DefaultsAreOpenAis) {
  const ApiRequest text = good(Endpoint::completions, R"({"prompt": "x"})");
  EXPECT_EQ(text.max_tokens, 16);
  EXPECT_EQ(text.sampling.temperature, 1.0f);
  EXPECT_EQ(text.logprobs, -1);
  EXPECT_FALSE(text.has_seed);
  const ApiRequest chat =
      good(Endpoint::chat, R"({"messages": [{"role": "user", "content": "x"}]})");
  EXPECT_EQ(chat.max_tokens, -1);
  EXPECT_EQ(chat.sampling.temperature, 1.0f);
}

TEST(Request, PromptsInEveryShape) {
  using Ids = std::vector<herd::TokenId>;
  const auto prompts = [](const std::string& json) {
    return good(Endpoint::completions, R"({"prompt": )" + json + "}").prompts;
  };
  EXPECT_EQ(prompts(R"("a")"), (std::vector<Prompt>{"a"}));
  EXPECT_EQ(prompts("[1, 2]"), (std::vector<Prompt>{Ids{1, 2}}));
  EXPECT_EQ(prompts(R"(["a", "b"])"), (std::vector<Prompt>{"a", "b"}));
  EXPECT_EQ(prompts("[[1], [2, 3]]"), (std::vector<Prompt>{Ids{1}, Ids{2, 3}}));
  EXPECT_EQ(prompts(R"(["a", [2, 3]])"), (std::vector<Prompt>{"a", Ids{2, 3}}));
  for (const char* wrong : {"[]", "5", "{}", "[[]]", "[1, \"a\"]", "[1.5]", "[-1]", "[99999999999]",
                            "[true]", "[\"a\", 1]", "[\"a\", [[1]]]"})
    EXPECT_EQ(bad(Endpoint::completions, R"({"prompt": )" + std::string(wrong) + "}").param,
              "prompt")
        << wrong;
}

TEST(Request, S1EveryNumberHasItsTypeAndRange) {
  for (const char* name : {"n", "best_of", "max_tokens", "logprobs", "top_k", "seed"})
    for (const char* value : {"1.5", "\"1\"", "true", "[1]"})
      refused('"' + std::string(name) + "\": " + value, name);
  for (const char* name : {"temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty",
                           "repetition_penalty"})
    for (const char* value : {"-3", "11", "\"1\"", "false"})
      refused('"' + std::string(name) + "\": " + value, name);
  for (const char* name : {"stream", "echo", "ignore_eos", "return_token_ids"})
    for (const char* value : {"1", "\"true\""})
      refused('"' + std::string(name) + "\": " + value, name);
  refused(R"("n": 0)", "n");
  refused(R"("max_tokens": -1)", "max_tokens");
  refused(R"("max_tokens": 99999999999999999999)", "max_tokens");
  refused(R"("top_k": -2)", "top_k");
  refused(R"("model": 5)", "model");
}

TEST(Request, S1UnknownFieldsAreRefused) {
  refused(R"("n_discard": -5)", "n_discard");
  refused(R"("grammar": "root ::= root")", "grammar");
  refused(R"("cache_salt": "x")", "cache_salt");
  refused(R"("suffix": "tail")", "suffix");
  const std::string chat = R"({"messages": [{"role": "user", "content": "x"}], )";
  for (const char* member :
       {R"("chat_template": "{{ x }}")", R"("chat_template_kwargs": {"a": 1})",
        R"("tools": [{"type": "function"}])", R"("prompt": "x")", R"("audio": {"voice": "x"})"})
    EXPECT_EQ(bad(Endpoint::chat, chat + member + "}").status, 400) << member;  // S7, S10
}

TEST(Request, S2CountsAreCappedBeforeAnythingIsMade) {
  refused(R"("n": 9)", "n");
  refused(R"("best_of": 9)", "best_of");
  refused(R"("n": 3, "best_of": 2)", "best_of");
  refused(R"("logprobs": 21)", "logprobs");
  refused(R"("stop": ["a", "b", "c", "d", "e"])", "stop");
  refused(R"("stop": ")" + std::string(257, 'x') + '"', "stop");
  refused(R"("stop": "")", "stop");
  std::string prompts = "\"x\"", biases = "\"0\": 1", messages = R"({"role":"user","content":""})";
  for (int i = 1; i <= 64; ++i) prompts += ", \"x\"";
  for (int i = 1; i <= 1024; ++i) biases += ", \"" + std::to_string(i) + "\": 1";
  EXPECT_EQ(bad(Endpoint::completions, R"({"prompt": [)" + prompts + "]}").param, "prompt");
  refused(R"("logit_bias": {)" + biases + "}", "logit_bias");
  std::string many = messages;
  for (int i = 1; i <= 4096; ++i) many += "," + messages;
  EXPECT_EQ(bad(Endpoint::chat, R"({"messages": [)" + many + "]}").param, "messages");
}

TEST(Request, S5DepthIsCapped) {
  const auto nested = [](int depth) {
    return R"({"prompt": "x", "metadata": )" + std::string(depth, '[') + std::string(depth, ']') +
           "}";
  };
  good(Endpoint::completions, nested(60));
  EXPECT_NE(bad(Endpoint::completions, nested(70)).message.find("deeper than 64"),
            std::string::npos);
  EXPECT_EQ(bad(Endpoint::completions, nested(1'000'000)).status, 400);
}

TEST(Request, BiasNamesTokensByNumber) {
  for (const char* key : {"x", "-1", "", "1x", "1.0", "99999999999"})
    refused(R"("logit_bias": {")" + std::string(key) + "\": 1}", "logit_bias");
  refused(R"("logit_bias": {"1": 101})", "logit_bias");
  refused(R"("logit_bias": {"1": "2"})", "logit_bias");
  refused(R"("logit_bias": [1])", "logit_bias");
}

TEST(Request, NoJsonIsSaidSo) {
  for (const char* body : {"", "{", "[]", "5", "null", "{\"prompt\": \"\xff\"}",
                           "{\"prompt\": \"x\", \"temperature\": 1e999}", "{'prompt': 'x'}"})
    EXPECT_EQ(bad(Endpoint::completions, body).status, 400) << body;
}

TEST(Request, Messages) {
  const ApiRequest r = good(Endpoint::chat, R"({"messages": [
    {"role": "developer", "content": "be \"kind\""},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
     "name": "x"},
    {"role": "assistant", "content": null, "tool_calls": null}]})");
  EXPECT_EQ(Json::parse(r.messages), Json::parse(R"([{"role": "system", "content": "be \"kind\""},
                            {"role": "user", "content": "ab", "name": "x"},
                            {"role": "assistant", "content": ""}])"));
  for (
      const char* wrong :
      {"[]", "{}", "\"hi\"", "[5]", R"([{"content": "x"}])", R"([{"role": "root", "content": ""}])",
       R"([{"role": "user", "content": 5}])",
       R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}])",
       R"([{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}])"})
    EXPECT_EQ(bad(Endpoint::chat, R"({"messages": )" + std::string(wrong) + "}").status, 400)
        << wrong;  // S11: nothing is fetched or decoded
}

TEST(Request, ChatLogprobs) {
  const std::string start = R"({"messages": [{"role": "user", "content": "x"}], )";
  EXPECT_EQ(good(Endpoint::chat, start + R"("logprobs": true})").logprobs, 0);
  EXPECT_EQ(good(Endpoint::chat, start + R"("logprobs": true, "top_logprobs": 3})").logprobs, 3);
  EXPECT_EQ(good(Endpoint::chat, start + R"("logprobs": false})").logprobs, -1);
  EXPECT_EQ(bad(Endpoint::chat, start + R"("top_logprobs": 3})").param, "top_logprobs");
  EXPECT_EQ(bad(Endpoint::chat, start + R"("logprobs": 3})").param, "logprobs");
  EXPECT_EQ(bad(Endpoint::chat, start + R"("logprobs": true, "top_logprobs": 21})").param,
            "top_logprobs");
}

TEST(Request, Streams) {
  const ApiRequest r = good(Endpoint::completions, R"({"prompt": "x", "stream": true,
                            "stream_options": {"include_usage": true}})");
  EXPECT_TRUE(r.stream && r.include_usage);
  refused(R"("stream_options": {"include_usage": true})", "stream_options");
  refused(R"("stream": true, "stream_options": {"what": true})", "stream_options");
  refused(R"("stream": true, "best_of": 2)", "best_of");
}

TEST(Request, ResponseFormat) {
  const std::string start = R"({"messages": [{"role": "user", "content": "x"}], )";
  const auto kind = [&](const std::string& format) {
    return good(Endpoint::chat, start + R"("response_format": )" + format + "}").format;
  };
  EXPECT_EQ(kind(R"({"type": "text"})").kind, herd::AnswerFormat::Kind::text);
  EXPECT_EQ(kind(R"({"type": "json_object"})").kind, herd::AnswerFormat::Kind::json_object);
  const herd::AnswerFormat schema =
      kind(R"({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "null"}}})");
  EXPECT_EQ(schema.kind, herd::AnswerFormat::Kind::json_schema);
  EXPECT_EQ(schema.schema, R"({"type":"null"})");
  for (const char* wrong : {"\"json\"", "{}", R"({"type": "regex"})", R"({"type": "json_schema"})"})
    EXPECT_EQ(bad(Endpoint::chat, start + R"("response_format": )" + wrong + "}").param,
              "response_format")
        << wrong;
}

TEST(Request, Tokenize) {
  const auto parsed = parse_tokenize(R"({"content": "x", "add_special_tokens": false})", kLimits);
  EXPECT_EQ(std::get<TokenizeRequest>(parsed).text, "x");
  EXPECT_FALSE(std::get<TokenizeRequest>(parsed).add_special);
  EXPECT_TRUE(std::holds_alternative<ApiError>(parse_tokenize("{}", kLimits)));
  EXPECT_TRUE(std::holds_alternative<ApiError>(parse_tokenize(R"({"prompt": 5})", kLimits)));
  EXPECT_EQ(std::get<1>(parse_detokenize(R"({"tokens": [1, "x"]})", kLimits)).param, "tokens");
  using Ids = std::vector<herd::TokenId>;
  EXPECT_EQ(std::get<Ids>(parse_detokenize(R"({"tokens": [1, 2]})", kLimits)), (Ids{1, 2}));
}

}  // namespace
}  // namespace server
