// Any template with any case: a text or an error, within the budgets, twice the same.
// The input: the template, a zero byte, the case's JSON.
#include "fuzz.h"

#include <algorithm>
#include <string>

#include "herd/chat.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace herd;
  const std::string_view input = fuzz::text_of(data, size);
  const std::size_t end = std::min(input.find('\0'), size);
  const std::string_view variables = end < size ? input.substr(end + 1) : "{}";
  ChatLimits limits;
  limits.steps = 20'000;
  limits.output_bytes = 1 << 20;
  limits.memory_bytes = 16 << 20;
  limits.now = 1'722'470'400;
  const auto made = ChatTemplate::parse(input.substr(0, end), limits);
  if (!made) return fuzz::check(made.error()), 0;
  const auto text = made->render(variables, limits);
  if (!text) return fuzz::check(text.error()), 0;
  fuzz::check(text->size() <= limits.output_bytes && fuzz::valid_utf8(*text));
  const auto again = made->render(variables, limits);
  fuzz::check(again.ok() && *again == *text);
  return 0;
}
