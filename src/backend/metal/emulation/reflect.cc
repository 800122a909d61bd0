// A kernel's parameters, read from the text that the host hands to newLibraryWithSource.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "backend/metal/emulation/launch.h"

namespace herd::metal::emulation {
namespace {

constexpr std::pair<std::string_view, Builtin> kBuiltins[] = {
    {"threadgroup_position_in_grid", Builtin::threadgroup_position_in_grid},
    {"thread_position_in_grid", Builtin::thread_position_in_grid},
    {"thread_position_in_threadgroup", Builtin::thread_position_in_threadgroup},
    {"thread_index_in_threadgroup", Builtin::thread_index_in_threadgroup},
    {"thread_index_in_simdgroup", Builtin::thread_index_in_simdgroup},
    {"simdgroup_index_in_threadgroup", Builtin::simdgroup_index_in_threadgroup},
    {"simdgroups_per_threadgroup", Builtin::simdgroups_per_threadgroup},
    {"threads_per_threadgroup", Builtin::threads_per_threadgroup},
    {"threadgroups_per_grid", Builtin::threadgroups_per_grid}};

/// What stands between the parentheses after `kernel void function`.
std::string_view parameter_list(std::string_view source, std::string_view function) {
  const std::string head = fmt::format("kernel void {}(", function);
  const std::size_t start = source.find(head);
  if (start == std::string_view::npos) return {};
  std::size_t at = start + head.size();
  for (int depth = 1; at < source.size(); ++at) {
    depth += source[at] == '(' ? 1 : source[at] == ')' ? -1 : 0;
    if (depth == 0) return source.substr(start + head.size(), at - start - head.size());
  }
  return {};
}

/// Comments hold commas and brackets.
std::string without_comments(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t comment = text.find("//");
    out += text.substr(0, comment);
    if (comment == std::string_view::npos) break;
    text.remove_prefix(std::min(text.size(), text.find('\n', comment)));
  }
  return out;
}

bool parse(std::string_view text, Parameter& parameter) {
  const std::size_t open = text.find("[["), close = text.find("]]");
  if (open == std::string_view::npos || close == std::string_view::npos) return false;
  const std::string_view attribute = text.substr(open + 2, close - open - 2);
  constexpr std::string_view kBuffer = "buffer(";
  if (attribute.starts_with(kBuffer)) {
    const std::string_view number = attribute.substr(kBuffer.size());
    return std::from_chars(number.data(), number.data() + number.size(), parameter.buffer).ec ==
               std::errc() &&
           parameter.buffer < kBuffers;
  }
  for (const auto& [name, builtin] : kBuiltins)
    if (attribute == name) parameter.builtin = builtin;
  return parameter.builtin != Builtin::none;
}

}  // namespace

std::vector<Parameter> reflect(std::string_view source, std::string_view function,
                               std::string& error) {
  std::vector<Parameter> parameters;
  const std::string list = without_comments(parameter_list(source, function));
  std::string_view rest = list;
  if (rest.empty()) error = fmt::format("the source has no kernel void {}", function);
  while (!rest.empty()) {
    std::size_t end = 0;
    for (int depth = 0; end < rest.size() && (rest[end] != ',' || depth > 0); ++end)
      depth += rest[end] == '(' || rest[end] == '['   ? 1
               : rest[end] == ')' || rest[end] == ']' ? -1
                                                      : 0;
    Parameter parameter;
    if (!parse(rest.substr(0, end), parameter))
      error = fmt::format("kernel {}: parameter {} has no attribute known here", function,
                          parameters.size());
    parameters.push_back(parameter);
    rest.remove_prefix(std::min(rest.size(), end + 1));
  }
  return parameters;
}

}  // namespace herd::metal::emulation
