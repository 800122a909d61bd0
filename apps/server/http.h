// Requests and replies as plain data, and errors as OpenAI spells them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "herd/status.h"

namespace server {

/// What the routes need to know of a request before its body.
struct HttpHead {
  std::string method, path;  // path: without the query
  std::string host, authorization;
  std::optional<std::string> origin;
  int version = 11;  // 10 or 11
  bool keep_alive = true;
  bool expects_continue = false;
  std::optional<std::uint64_t> content_length;  // none: no body, or chunked
  bool chunked = false;
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

/// Why a request is refused or fails: a status and the body {"error": {message, type, param,
/// code}}.
struct ApiError {
  int status = 400;
  std::string message;
  std::string param;        // empty: null
  std::string code;         // empty: null
  std::string_view reason;  // for the metrics; one of a few
  int retry_after = 0;      // seconds; 0: the header is absent
  std::string allow;        // methods, with status 405
};

std::string_view status_text(int status);

/// A field of the request is wrong: 400.
ApiError bad_field(std::string_view param, std::string message);
/// A library's error as a client sees it.
ApiError from_error(const herd::Error& error);

std::string error_json(const ApiError& error);
HttpReply error_reply(const ApiError& error);

/// The bytes in front of a body of known length.
std::string head_bytes(const HttpReply& reply, bool keep_alive);
/// The bytes in front of an event stream; chunked says how it is framed.
std::string stream_head_bytes(bool chunked, bool keep_alive);
/// One chunk of a chunked body; "" is the last.
std::string chunk_bytes(std::string_view body);

}  // namespace server
