// Any bytes as what a connection brings: one request after the other, in pieces of any size.
#include "fuzz.h"

#include <string>
#include <vector>

#include "apps/server/access.h"
#include "apps/server/http_reader.h"

namespace {

using namespace herd::fuzz;
using server::HttpReader;
using State = HttpReader::State;

server::Limits small_limits() {
  server::Limits limits;
  limits.header_bytes = 1024;
  limits.header_fields = 8;
  limits.body_bytes = 512;
  return limits;
}

void check_head(const server::HttpHead& head) {
  check(head.path.starts_with('/') && head.path.find('?') == std::string::npos);
  check(head.path.size() <= 1024 && head.host.size() <= 1024);
  check(!head.method.empty() && (head.version == 10 || head.version == 11));
  const server::Access access{{"key"}, {"herd.example"}};
  for (const auto& refused : {server::check_host(head, access), server::check_origin(head)})
    if (refused) check(refused->status == 400 || refused->status == 403);
  if (server::find_key(head.authorization, access))
    check(head.authorization.size() > 3 && head.authorization.find("key") != std::string::npos);
}

/// Every request of the bytes, spelt out.
std::vector<std::string> read(std::string_view bytes, std::size_t piece) {
  std::vector<std::string> seen;
  std::string rest;
  for (int requests = 0; requests < 20; ++requests) {
    HttpReader reader(small_limits());
    State state = reader.feed(std::exchange(rest, {}));
    for (;;) {
      if (state == State::body) state = reader.feed("");
      if (state == State::done || state == State::failed || bytes.empty()) break;
      const std::size_t taken = std::min(piece, bytes.size());
      state = reader.feed(bytes.substr(0, taken));
      bytes.remove_prefix(taken);
      check(state == State::failed || reader.rest().size() <= 16 * 1024 + piece);
    }
    if (state == State::failed) {
      const server::ApiError& error = reader.error();
      check(error.status == 400 || error.status == 413 || error.status == 417 ||
            error.status == 431);
      check(herd::Error{herd::Code::invalid_argument, error.message});
      return seen;
    }
    if (state != State::done) return seen;
    check_head(reader.head());
    const std::string body = reader.take_body();
    check(body.size() <= 512);
    seen.push_back(reader.head().method + ' ' + reader.head().path + ' ' + body);
    rest = reader.rest();
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = text_of(data + 1, size - 1);
  // What a request is does not depend on how its bytes arrived; how soon a broken one is known may.
  check(read(bytes, 1 + data[0]) == read(bytes, bytes.size() + 1));
  return 0;
}
