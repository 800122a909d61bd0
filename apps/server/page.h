// What GET / serves.
#pragma once

#include <string_view>

namespace server {

/// One self-contained page, and the content security policy that goes with it.
extern const std::string_view kPage, kPagePolicy;

}  // namespace server
