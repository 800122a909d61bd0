// Templates of our own and what jinja2 3.1, set up as Hugging Face's apply_chat_template does
// (trim_blocks, lstrip_blocks, immutable sandbox, loop controls), makes of them:
// tests/data/chat_cases.json.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "herd/chat.h"

namespace herd {
namespace {

using nlohmann::ordered_json;

ordered_json cases() {
  std::ifstream file(std::string(HERD_TEST_DATA) + "/chat_cases.json");
  return ordered_json::parse(file);
}

Result<std::string> render(const std::string& text, const std::string& variables,
                           const ChatLimits& limits = {}) {
  const auto made = ChatTemplate::parse(text, limits);
  if (!made.ok()) return made.error();
  return made->render(variables, limits);
}

TEST(ChatCases, EqualJinjaByteForByte) {
  const ordered_json all = cases();
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
