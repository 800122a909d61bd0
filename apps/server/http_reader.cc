#include "http_reader.h"

#include <fmt/format.h>

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <iterator>

namespace server {
namespace beast = boost::beast;
namespace http = boost::beast::http;

struct HttpReader::Parser : http::request_parser<http::string_body> {};

namespace {

constexpr std::size_t kUnparsedBytes = 16u << 10;  // of a chunk's header, or of a trailer

std::string text(beast::string_view view) {
  return std::string(view.data(), view.size());
}

/// A field's value, and how often it is there.
struct Found {
  std::size_t count = 0;
  std::string value;
};
Found find(const http::fields& fields, http::field name) {
  const auto [first, last] = fields.equal_range(name);
  Found found;
  found.count = static_cast<std::size_t>(std::distance(first, last));
  if (found.count > 0) found.value = text(first->value());
  return found;
}

/// What a parser's error is to the client.
ApiError error_of(const beast::error_code& ec, const Limits& limits) {
  ApiError error;
  error.status = 400;
  error.message = "not a valid HTTP request: " + ec.message();
  error.reason = "bad_http";
  if (ec == http::error::header_limit) {
    error.status = 431;
    error.message = fmt::format("the header is above {} bytes", limits.header_bytes);
    error.reason = "header_too_large";
  } else if (ec == http::error::body_limit) {
    error.status = 413;
    error.message = fmt::format("the body is above {} bytes", limits.body_bytes);
    error.reason = "body_too_large";
  }
  return error;
}

}  // namespace

HttpReader::HttpReader(const Limits& limits)
    : limits_(limits), parser_(std::make_unique<Parser>()) {
  parser_->header_limit(static_cast<std::uint32_t>(limits.header_bytes));
  parser_->body_limit(limits.body_bytes);
}
HttpReader::~HttpReader() = default;

HttpReader::State HttpReader::feed(std::string_view bytes) {
  unparsed_ += bytes;
  started_ = started_ || !unparsed_.empty();
  if (state_ == State::header || state_ == State::body) parse();
  return state_;
}

void HttpReader::parse() {
  if (state_ == State::header) return parse_header();
  parser_->eager(true);
  if (!parser_->is_done() && unparsed_.empty()) return;
  std::size_t used = 0;
  while (!parser_->is_done() && used < unparsed_.size()) {
    beast::error_code ec;
    used += parser_->put(boost::asio::buffer(unparsed_.data() + used, unparsed_.size() - used), ec);
    if (ec == http::error::need_more) break;
    if (ec) return fail(error_of(ec, limits_));
  }
  unparsed_.erase(0, used);
  if (parser_->is_done()) {
    state_ = State::done;
    return;
  }
  if (unparsed_.size() > kUnparsedBytes)
    fail(400, "a line of the request does not end", "header_too_large");
}

/// The parser gets a header whole and nothing behind it: given in pieces, one near its limit could
/// be refused that it takes at once.
void HttpReader::parse_header() {
  constexpr std::string_view kEnd = "\r\n\r\n";
  // TLS, for one, says so at once and would never send the end of a header.
  if (!unparsed_.empty() && (unparsed_[0] <= ' ' || unparsed_[0] == 127))
    return fail(error_of(http::error::bad_method, limits_));
  const std::size_t end = unparsed_.find(kEnd);
  const std::size_t bytes = end == std::string::npos ? unparsed_.size() : end + kEnd.size();
  if (bytes > limits_.header_bytes) return fail(error_of(http::error::header_limit, limits_));
  if (end == std::string::npos) return;
  parser_->eager(false);
  std::size_t used = 0;
  while (!parser_->is_header_done() && used < bytes) {
    beast::error_code ec;
    used += parser_->put(boost::asio::buffer(unparsed_.data() + used, bytes - used), ec);
    if (ec) return fail(error_of(ec, limits_));
  }
  unparsed_.erase(0, used);
  if (!parser_->is_header_done()) return fail(error_of(http::error::need_more, limits_));
  finish_header();
}

void HttpReader::finish_header() {
  const auto& message = parser_->get();
  const auto fields = static_cast<std::size_t>(std::distance(message.begin(), message.end()));
  if (fields > limits_.header_fields)
    return fail(431,
                fmt::format("{} header fields, the limit is {}", fields, limits_.header_fields),
                "header_too_large");
  const Found host = find(message, http::field::host), origin = find(message, http::field::origin),
              key = find(message, http::field::authorization),
              expect = find(message, http::field::expect);
  if (host.count > 1 || origin.count > 1 || key.count > 1)
    return fail(400, "Host, Origin or Authorization is there more than once", "bad_http");
  const std::string target = text(message.target());
  if (!target.starts_with('/'))
    return fail(400, "the request target must begin with /", "bad_http");
  if (expect.count > 0 && !beast::iequals(expect.value, "100-continue"))
    return fail(417, "the only expectation met here is 100-continue", "bad_http");
  head_.method = text(message.method_string());
  head_.path = target.substr(0, target.find('?'));
  head_.host = host.value;
  head_.authorization = key.value;
  if (origin.count > 0) head_.origin = origin.value;
  head_.version = static_cast<int>(message.version());
  head_.keep_alive = parser_->keep_alive();
  head_.expects_continue = expect.count > 0 && head_.version == 11;
  if (const auto length = parser_->content_length()) head_.content_length = *length;
  head_.chunked = parser_->chunked();
  state_ = State::body;
}

std::string HttpReader::take_body() {
  return std::move(parser_->get().body());
}

void HttpReader::fail(ApiError error) {
  state_ = State::failed;
  error_ = std::move(error);
}
void HttpReader::fail(int status, std::string message, std::string_view reason) {
  ApiError error;
  error.status = status;
  error.message = std::move(message);
  error.reason = reason;
  fail(std::move(error));
}

}  // namespace server
