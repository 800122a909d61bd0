// What is understood of JSON Schema, and what is refused by name.
#include "constrain/schema.h"

#include <gtest/gtest.h>

#include <string>

namespace herd::constrain {
namespace {

Alphabet every_byte() {
  return Alphabet().set();
}

Error error_of(const std::string& schema) {
  const auto automaton = compile_schema(schema, every_byte());
  return automaton.ok() ? Error{Code::internal, "compiled: " + schema} : automaton.error();
}

struct Case {
  const char* schema;
  Code code;
  const char* message;
};

TEST(Schema, RefusesByNameWhatItCannotHold) {
  const Case cases[] = {
      {R"({"type": "string", "pattern": "a+"})", Code::unsupported,
       "#: keyword \"pattern\" is not supported"},
      {R"({"type": "object", "properties": {"d": {"type": "string", "format": "date"}}})",
       Code::unsupported, "#/properties/d: keyword \"format\" is not supported"},
      {R"({"type": "array", "items": {"not": {}}})", Code::unsupported,
       "#/items: keyword \"not\" is not supported"},
      {R"({"type": "object", "patternProperties": {}})", Code::unsupported, "patternProperties"},
      {R"({"type": "object", "minProperties": 1})", Code::unsupported, "minProperties"},
      {R"({"if": {}, "then": {}})", Code::unsupported, "\"if\""},
      {R"({"type": "number", "multipleOf": 2})", Code::unsupported, "multipleOf"},
      {R"({"type": "array", "uniqueItems": true})", Code::unsupported, "uniqueItems"},
      {R"({"type": "array", "items": [{}]})", Code::unsupported, "prefixItems"},
      {R"({"type": "number", "minimum": 0.5})", Code::unsupported, "minimum 0.5 is not supported"},
      {R"({"anyOf": [{}], "type": "object"})", Code::unsupported, "\"type\" beside \"anyOf\""},
      {R"({"allOf": [{}, {}]})", Code::unsupported, "allOf of more than one"},
      {R"({"$defs": {"a": {"contains": 1}}, "$ref": "#/$defs/a"})", Code::unsupported,
       "#/$defs/a: keyword \"contains\""},
      {R"({"type": "object", "properties": {"a": {"$id": "x"}}})", Code::unsupported, "$id"},
      {R"({)", Code::invalid_argument, "not valid JSON"},
      {R"([])", Code::invalid_argument, "an object, true or false"},
      {R"({"type": "strin"})", Code::invalid_argument, "type must be one or a list of"},
      {R"({"$ref": "#/$defs/none"})", Code::invalid_argument, "leads nowhere"},
      {R"({"$ref": "http://x/y"})", Code::invalid_argument, "leads nowhere"},
      {R"({"enum": []})", Code::invalid_argument, "no finite JSON text"},
      {R"(false)", Code::invalid_argument, "no finite JSON text"},
      {R"({"type": "string", "minLength": 3, "maxLength": 2})", Code::invalid_argument,
       "no finite"},
      {R"({"type": "string", "minLength": -1})", Code::invalid_argument, "minLength must be"},
      {R"({"type": "integer", "minimum": 3, "maximum": 2})", Code::invalid_argument, "no finite"},
      {R"({"type": "object", "required": ["x"], "additionalProperties": false})",
       Code::invalid_argument, "\"x\" is required, but no property"},
      {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
       Code::invalid_argument, "no finite"},
      {R"({"$ref": "#"})", Code::out_of_range, "does it refer to itself?"},
      {R"({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})", Code::out_of_range, "refer to itself"}};
  for (const Case& c : cases) {
    const Error error = error_of(c.schema);
    EXPECT_EQ(error.code, c.code) << c.schema << ": " << error.message;
    EXPECT_NE(error.message.find(c.message), std::string::npos)
        << c.schema << ": " << error.message;
    EXPECT_TRUE(error.message.starts_with("json_schema: ")) << error.message;
  }
}

TEST(Schema, TakesWhatPydanticAndTheDocsWrite) {
  for (const char* schema :
       {"true", "{}", R"({"type": "object"})",
        R"({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "title": "T",
            "description": "d", "type": "object", "properties": {"a": {"title": "A", "default": 1,
            "anyOf": [{"type": "integer"}, {"type": "null"}], "examples": [1]}},
            "required": ["a"], "additionalProperties": false})",
        R"({"definitions": {"A": {"type": "string"}}, "allOf": [{"$ref": "#/definitions/A"}]})",
        R"({"properties": {"a": true}, "required": ["a", "b"]})",
        R"({"$defs": {"a/b": {"type": "null"}}, "$ref": "#/$defs/a~1b"})",
        R"({"type": "string", "enum": ["a", 1]})", R"({"minimum": 1, "maxLength": 3})",
        R"({"type": "number", "minimum": -1e3, "exclusiveMaximum": 7.0})"}) {
    const auto automaton = compile_schema(schema, every_byte());
    EXPECT_TRUE(automaton.ok()) << schema << ": "
                                << (automaton.ok() ? "" : automaton.error().message);
  }
}

TEST(Schema, SizesAreBounded) {
  std::string deep;
  for (int i = 0; i < 70; ++i) deep += R"({"items": )";
  EXPECT_EQ(error_of(deep + "{}" + std::string(70, '}')).code, Code::out_of_range);
  EXPECT_EQ(error_of("\"" + std::string(300'000, 'x') + "\"").code, Code::out_of_range);
  std::string many = R"({"enum": [)";
  for (int i = 0; i < 16'000; ++i) many += std::to_string(100'000'000 + i) + ",";
  const Error error = error_of(many + "0]}");
  EXPECT_EQ(error.code, Code::out_of_range);
  EXPECT_NE(error.message.find("more than 100000 states"), std::string::npos) << error.message;
  // Doubles at each of 40 definitions.
  std::string doubling = R"({"$ref": "#/$defs/d0", "$defs": {"d40": {"type": "null"})";
  for (int i = 0; i < 40; ++i) {
    const std::string next = R"({"$ref": "#/$defs/d)" + std::to_string(i + 1) + "\"}";
    doubling += ", \"d" + std::to_string(i) + R"(": {"anyOf": [)" + next + ", " + next + "]}";
  }
  EXPECT_EQ(error_of(doubling + "}}").code, Code::out_of_range);
}

TEST(Schema, NeedsTheBytesItIsSpeltWith) {
  Alphabet digits;
  for (char c = '0'; c <= '9'; ++c) digits[static_cast<std::size_t>(c)] = true;
  EXPECT_TRUE(compile_schema(R"({"type": "integer"})", digits).ok());
  EXPECT_FALSE(compile_schema(R"({"type": "string"})", digits).ok());
  EXPECT_FALSE(compile_schema(R"({"const": "12"})", digits).ok());
}

TEST(Schema, AnObjectDoesNotGrowWithItsUses) {
  std::string schema = R"({"$defs": {"p": {"type": "object", "properties": {"aaaaaaaaaaaaaaaaaaaa":
      {"type": "string"}}}}, "type": "object", "properties": {)";
  for (int i = 0; i < 100; ++i)
    schema += (i > 0 ? ",\"" : "\"") + std::to_string(i) + R"(": {"$ref": "#/$defs/p"})";
  const auto automaton = compile_schema(schema + "}}", every_byte());
  ASSERT_TRUE(automaton.ok());
  EXPECT_LT(automaton->states.size(), 1000u);
}

}  // namespace
}  // namespace herd::constrain
