#include "access.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>

namespace server {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

/// "name", "name:port", "[v6]:port" -> the name, brackets removed; none if it is malformed.
std::optional<std::string> name_of(std::string_view host) {
  std::string_view name = host, port;
  if (host.starts_with('[')) {
    const std::size_t end = host.find(']');
    if (end == std::string_view::npos) return {};
    name = host.substr(1, end - 1);
    port = host.substr(end + 1);
  } else {
    const std::size_t colon = std::min(host.find(':'), host.size());
    name = host.substr(0, colon);
    port = host.substr(colon);
  }
  const bool digits = std::ranges::all_of(port.substr(std::min<std::size_t>(1, port.size())),
                                          [](unsigned char c) { return std::isdigit(c) != 0; });
  if (name.empty() || !digits || (!port.empty() && port[0] != ':')) return {};
  return lower(name);
}

bool is_address(const std::string& name) {
  in6_addr bytes;
  return inet_pton(AF_INET, name.c_str(), &bytes) == 1 ||
         inet_pton(AF_INET6, name.c_str(), &bytes) == 1;
}

/// Looks at every byte of `given`, whatever they are.
bool equal_in_constant_time(std::string_view given, std::string_view key) {
  std::size_t difference = given.size() ^ key.size();
  for (std::size_t i = 0; i < given.size(); ++i)
    difference |= static_cast<unsigned char>(given[i] ^ key[i % key.size()]);
  return difference == 0;
}

}  // namespace

herd::Result<std::vector<std::string>> parse_keys(std::string_view text) {
  std::vector<std::string> keys;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.starts_with('#')) continue;
    if (!std::ranges::all_of(line, [](unsigned char c) { return c > 0x20 && c < 0x7f; }))
      return herd::Error{herd::Code::invalid_argument,
                         "API key " + std::to_string(keys.size() + 1) +
                             ": only visible ASCII characters, no blanks"};
    keys.emplace_back(line);
  }
  if (keys.empty())
    return herd::Error{herd::Code::invalid_argument, "no API key there; one a line is needed"};
  return keys;
}

herd::Status check_bind(bool loopback, bool has_keys, bool insecure) {
  if (loopback || has_keys || insecure) return {};
  return {herd::Code::invalid_argument,
          "others could reach this address: give --api-key-file, or --insecure to let anybody in"};
}

std::optional<ApiError> check_host(const HttpHead& head, const Access& access) {
  ApiError error;
  error.reason = "host";
  const auto name = name_of(head.host);
  if (!name) {
    error.message = "the Host header is missing or malformed";
    return error;
  }
  if (*name == "localhost" || is_address(*name) ||
      std::ranges::find(access.hosts, *name) != access.hosts.end())
    return {};
  error.status = 403;
  error.code = "host_not_allowed";
  error.message = "this server does not answer to the name in the Host header (see --allow-host)";
  return error;
}

std::optional<ApiError> check_origin(const HttpHead& head) {
  if (!head.origin) return {};
  const std::string origin = lower(*head.origin), host = lower(head.host);
  if (origin == "http://" + host || origin == "https://" + host) return {};
  ApiError error;
  error.status = 403;
  error.code = "origin_not_allowed";
  error.message = "pages of other origins may not use this server";
  error.reason = "origin";
  return error;
}

std::optional<std::uint64_t> find_key(std::string_view authorization, const Access& access) {
  if (access.keys.empty()) return 0;
  constexpr std::string_view kScheme = "bearer ";
  if (lower(authorization.substr(0, kScheme.size())) != kScheme) return {};
  const std::string_view given = trimmed(authorization.substr(kScheme.size()));
  std::uint64_t found = 0;
  for (std::size_t i = 0; i < access.keys.size(); ++i)
    if (equal_in_constant_time(given, access.keys[i])) found = i + 1;
  if (found == 0) return {};
  return found;
}

}  // namespace server
