// Who may ask: API keys, the names this server answers to, and pages of other origins.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http.h"

namespace server {

struct Access {
  std::vector<std::string> keys;   // none: no key is asked for
  std::vector<std::string> hosts;  // names allowed beside localhost and IP addresses, lower case
};

/// One key a line; blank lines and those that begin with # are passed over.
/// Error: invalid_argument: no key at all, or one with blanks or control characters.
herd::Result<std::vector<std::string>> parse_keys(std::string_view text);

/// Whether `address` (of an interface) may be listened on: loopback, or somebody must prove a key.
herd::Status check_bind(bool loopback, bool has_keys, bool insecure);

/// A name that DNS may point anywhere is no name of this server: a page of some site could speak to
/// it through its visitor's browser. IP addresses cannot be made to point elsewhere.
std::optional<ApiError> check_host(const HttpHead& head, const Access& access);
/// Browsers say which page asks; only this server's own pages may.
std::optional<ApiError> check_origin(const HttpHead& head);

/// The number of the key that `authorization` holds, from 1; 0 if no key is asked for; none if it
/// is wrong. Takes the same time for any wrong key of one length.
std::optional<std::uint64_t> find_key(std::string_view authorization, const Access& access);

}  // namespace server
