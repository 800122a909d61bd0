#include "http.h"

#include <fmt/format.h>

#include "json.h"

namespace server {
namespace {

/// OpenAI's type for a status.
std::string_view error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 429: return "rate_limit_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

OrderedJson text_or_null(const std::string& text) {
  return text.empty() ? OrderedJson(nullptr) : OrderedJson(text);
}

constexpr std::string_view kServerHeaders =
    "Server: herd\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n";

}  // namespace

std::string_view status_text(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Payload Too Large";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    default: return "Error";
  }
}

ApiError bad_field(std::string_view param, std::string message) {
  ApiError error;
  error.message = std::move(message);
  error.param = param;
  error.reason = "bad_request";
  return error;
}

ApiError from_error(const herd::Error& error) {
  ApiError out;
  out.message = error.message;
  out.reason = "bad_request";
  switch (error.code) {
    case herd::Code::resource_exhausted:
      out.status = 503;
      out.code = "overloaded";
      out.reason = "queue_full";
      out.retry_after = 1;
      break;
    case herd::Code::cancelled:
      out.status = 503;
      out.code = "cancelled";
      out.reason = "cancelled";
      break;
    case herd::Code::internal:
    case herd::Code::io:
      out.status = 500;
      out.code = "internal_error";
      out.reason = "internal";
      break;
    default: break;
  }
  return out;
}

std::string error_json(const ApiError& error) {
  OrderedJson body;
  body["error"] = {{"message", error.message},
                   {"type", error_type(error.status)},
                   {"param", text_or_null(error.param)},
                   {"code", text_or_null(error.code)}};
  return dump(body);
}

HttpReply error_reply(const ApiError& error) {
  HttpReply reply;
  reply.status = error.status;
  reply.body = error_json(error);
  if (error.retry_after > 0)
    reply.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  if (!error.allow.empty()) reply.headers.emplace_back("Allow", error.allow);
  if (error.status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

std::string head_bytes(const HttpReply& reply, bool keep_alive) {
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\n{}Content-Type: {}\r\nContent-Length: {}\r\n", reply.status,
                  status_text(reply.status), kServerHeaders, reply.content_type, reply.body.size());
  for (const auto& [name, value] : reply.headers) out += fmt::format("{}: {}\r\n", name, value);
  return out + (keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
}

std::string stream_head_bytes(bool chunked, bool keep_alive) {
  return fmt::format("HTTP/1.1 200 OK\r\n{}Content-Type: text/event-stream; charset=utf-8\r\n{}{}",
                     kServerHeaders, chunked ? "Transfer-Encoding: chunked\r\n" : "",
                     keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
}

std::string chunk_bytes(std::string_view body) {
  return fmt::format("{:x}\r\n{}\r\n", body.size(), body);
}

}  // namespace server
