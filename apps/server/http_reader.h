// Bytes of a connection into one HTTP request, within limits. No socket in here.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "http.h"
#include "limits.h"

namespace server {

/// Reads one request; what comes after it stays in rest(). Keeps at most header_bytes of the header
/// or body_bytes of the body, and a piece of at most 16 KiB that is not parsed yet.
class HttpReader {
 public:
  enum class State {
    header,  // more bytes are needed
    body,    // the header is whole; feed "" to go on with what is already there
    done,
    failed,  // error() says why; the connection cannot be used any longer
  };

  explicit HttpReader(const Limits& limits);
  ~HttpReader();

  /// Takes bytes in. Stops behind the header, and behind the request. Not after `failed`.
  State feed(std::string_view bytes);
  State state() const { return state_; }
  bool started() const { return started_; }  // any byte of the request has come

  const HttpHead& head() const { return head_; }  // from `body` on
  const ApiError& error() const { return error_; }
  std::string take_body();
  const std::string& rest() const { return unparsed_; }

 private:
  struct Parser;
  void parse();
  void parse_header();
  void finish_header();
  void fail(ApiError error);
  void fail(int status, std::string message, std::string_view reason);

  Limits limits_;
  std::unique_ptr<Parser> parser_;
  std::string unparsed_;
  State state_ = State::header;
  bool started_ = false;
  HttpHead head_;
  ApiError error_;
};

}  // namespace server
