// Templates of our own and what jinja2 3.1, set up as Hugging Face's apply_chat_template does
// (trim_blocks, lstrip_blocks, immutable sandbox, loop controls), makes of them:
// tests/data/chat_cases.json, and many more made at random in chat_jinja.json.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "herd/chat.h"

namespace herd {
namespace {

using nlohmann::ordered_json;

ordered_json read_data(const std::string& name) {
  std::ifstream file(std::string(HERD_TEST_DATA) + "/" + name);
  return ordered_json::parse(file);
}

Result<std::string> render(const std::string& text, const std::string& variables,
                           const ChatLimits& limits = {}) {
  const auto made = ChatTemplate::parse(text, limits);
  if (!made.ok()) return made.error();
  return made->render(variables, limits);
}

TEST(ChatCases, EqualJinjaByteForByte) {
  const ordered_json all = read_data("chat_cases.json");
  const std::string variables = all["variables"].dump();
  int compared = 0;
  for (const auto& c : all["cases"]) {
    const std::string text = c["template"];
    SCOPED_TRACE(text);
    const auto got = render(text, variables);
    if (c.contains("error")) {
      ASSERT_FALSE(got.ok()) << *got;
      EXPECT_EQ(got.error().message.find('\n'), std::string::npos);
    } else {
      ASSERT_TRUE(got.ok()) << got.error().message;
      EXPECT_EQ(*got, c["text"].get<std::string>());
      ++compared;
    }
  }
  EXPECT_GE(compared, 26);
}

// A case has a template (a whole one of our own, by its number, or a few tags made at random) and
// variables (by number); jinja2 made `text`, or refused with the template's own words, `raises`.
TEST(ChatCases, EqualJinjaOnTemplatesMadeAtRandom) {
  const ordered_json all = read_data("chat_jinja.json");
  std::vector<std::string> variables;
  for (const auto& v : all["variables"]) variables.push_back(v.dump());
  int equal = 0, refused = 0;
  for (const auto& c : all["cases"]) {
    const std::string text =
        c.contains("source") ? c["source"] : all["templates"][c["template"].get<std::size_t>()];
    SCOPED_TRACE(text);
    const auto got = render(text, variables[c["variables"].get<std::size_t>()]);
    if (c.contains("raises")) {
      ASSERT_FALSE(got.ok()) << *got;
      EXPECT_NE(got.error().message.find(c["raises"].get<std::string>()), std::string::npos)
          << got.error().message;
      ++refused;
    } else {
      ASSERT_TRUE(got.ok()) << got.error().message;
      ASSERT_EQ(*got, c["text"].get<std::string>());
      ++equal;
    }
  }
  EXPECT_GE(equal, 1500);
  EXPECT_GE(refused, 20);
}

std::string text_of(const std::string& source, const std::string& variables = "{}") {
  const auto got = render(source, variables);
  return got.ok() ? *got : "error: " + got.error().message;
}

// Jinja decides where a name lives when it compiles: one that a scope sets belongs to that scope
// from its beginning, whatever the render calls by that name.
TEST(ChatScopes, ANameAScopeSetsIsUnsetBefore) {
  const std::string given = R"({"x": "X"})";
  EXPECT_EQ(text_of("{% set x = 1 %}{{ x }}", given), "1");
  EXPECT_EQ(text_of("{{ x }}{% set x = 1 %}{{ x }}", given), "X1");
  EXPECT_EQ(text_of("{% for i in [1, 2] %}{% if i == 2 %}{{ x }}{% endif %}{% set x = i %}"
                    "{% endfor %}{{ x }}",
                    given),
            "XX");
  EXPECT_EQ(text_of("{% if 0 %}{% set x = 1 %}{% endif %}{{ x }}", given), "X");
  EXPECT_EQ(
      text_of("{% for i in [1] %}{% if 0 %}{% set x = 1 %}{% endif %}{{ x }}{% endfor %}", given),
      "X");
  EXPECT_EQ(text_of("{% set x %}{{ x }}b{% endset %}{{ x }}", given), "b");
}

TEST(ChatFormats, AsPython) {
  EXPECT_EQ(text_of("{{ '%c%c' % (97, 'b') }}"), "ab");
  EXPECT_EQ(text_of("{{ '{:#x} {:#o} {:#b} {:,}'.format(255, 8, 5, 1234567) }}"),
            "0xff 0o10 0b101 1,234,567");
  EXPECT_EQ(text_of("{{ '{:.3}|{:.2}|{:.1}'.format(1.0, 100.0, 0.00001234) }}"), "1.0|1e+02|1e-05");
  EXPECT_EQ(text_of("{{ '{:05}|{:>5}|{:^5}'.format('a', 'b', 'c') }}"), "a0000|    b|  c  ");
  for (const char* wrong : {"{{ '{:+}'.format('a') }}", "{{ '{:.2}'.format(1) }}",
                            "{{ '%x' % 1.5 }}", "{{ '%d %d' % (1,) }}", "{{ '%c' % -1 }}"})
    EXPECT_FALSE(render(wrong, "{}").ok()) << wrong;
}

// What a filter or method needs on its way to a result counts as well as the result.
TEST(ChatBudgets, HoldForWhatIsMadeOnTheWay) {
  ChatLimits limits;
  limits.memory_bytes = 8 << 20;
  limits.steps = std::int64_t{1} << 40;
  for (const char* call : {"|reverse", "[::2]", ".split('a')", ".split()", ".rsplit('a', 9999999)",
                           ".splitlines()", "|e", "|forceescape", "|upper", "|indent",
                           ".expandtabs()", ".replace('', '-')", "|tojson", "|list"}) {
    SCOPED_TRACE(call);
    const auto got = render(
        std::string("{% set t = 'a\n' * 2000000 %}{{ (t") + call + ")|length }}", "{}", limits);
    ASSERT_FALSE(got.ok()) << *got;
    EXPECT_EQ(got.error().code, Code::resource_exhausted) << got.error().message;
  }
  EXPECT_FALSE(render("{{ 1.5|round(400, 'ceil') }}", "{}").ok());
}

TEST(ChatBudgets, AScopeOfManyNamesStaysFast) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "{% set a" + std::to_string(i) + " = 1 %}";
  EXPECT_EQ(text_of(text + "{{ a0 + a19999 }}"), "2");
}

TEST(ChatCases, EveryBudgetEndsARender) {
  ChatLimits few;
  few.steps = 10'000;
  const auto endless = render(
      "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}", "{}", few);
  ASSERT_FALSE(endless.ok());
  EXPECT_EQ(endless.error().code, Code::resource_exhausted);

  ChatLimits small;
  small.output_bytes = 100;
  const auto wide = render("{{ 'ab' * 51 }}", "{}", small);
  ASSERT_FALSE(wide.ok());
  EXPECT_EQ(wide.error().code, Code::resource_exhausted);
  EXPECT_TRUE(render("{{ 'ab' * 50 }}", "{}", small).ok());

  const auto deep = render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{}");
  ASSERT_FALSE(deep.ok());
  EXPECT_EQ(deep.error().code, Code::resource_exhausted);
  const auto nested = ChatTemplate::parse("{{ " + std::string(100'000, '(') + "1");
  ASSERT_FALSE(nested.ok());

  ChatLimits memory;
  memory.memory_bytes = 1 << 20;
  EXPECT_FALSE(render("{% set x = 'a' * 100000000 %}", "{}", memory).ok());
}

// Found by fuzzing: messages quoted line ends and control characters of the template as they were.
TEST(ChatCases, ErrorsAreOneLineOfWholeCharacters) {
  const auto message = [](const std::string& text) {
    const auto got = render(text, "{}");
    return got.ok() ? "no error" : got.error().message;
  };
  EXPECT_NE(message("{% set a = T'x\n' %}").find("x\\n"), std::string::npos);
  EXPECT_NE(
      message("{{ raise_exception('a\nb\x1b[2J \u00e9\u0085') }}").find(R"(a\nb\x1b[2J é\xc2\x85)"),
      std::string::npos);
  EXPECT_LT(message("{{ raise_exception('x' * 100000) }}").size(), 2100u);
  EXPECT_LT(message("{{ " + std::string(100'000, 'f') + "() }}").size(), 2100u);
}

TEST(ChatCases, ErrorsNameTheLine) {
  const auto made = ChatTemplate::parse("a\nb\n{% if %}");
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.error().message.find("line 3"), std::string::npos) << made.error().message;
  const auto raised = render("\n{{ raise_exception('only user and assistant') }}", "{}");
  ASSERT_FALSE(raised.ok());
  EXPECT_NE(raised.error().message.find("only user and assistant"), std::string::npos)
      << raised.error().message;
}

}  // namespace
}  // namespace herd
