#include "server/http.h"

#include <gtest/gtest.h>

#include "server/access.h"
#include "server/http_reader.h"
#include "server/json.h"
#include "server/metrics.h"

namespace server {
namespace {

using State = HttpReader::State;

constexpr const char* kPost =
    "POST /v1/completions?x=1 HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 5\r\n"
    "Authorization: Bearer k\r\nOrigin: http://localhost:8080\r\n\r\nhelloGET / HTTP/1.1\r\n";

/// Feeds a request in pieces of `size`; the state it ends in.
State feed(HttpReader& reader, std::string_view bytes, std::size_t size) {
  State state = reader.state();
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    state = reader.feed(bytes.substr(at, size));
    if (state == State::body) state = reader.feed("");
    if (state == State::failed) return state;
  }
  return state;
}

/// The status with which `bytes` are refused; 0 if they are not.
int refused(std::string_view bytes, const Limits& limits = {}) {
  int status = -1;
  for (const std::size_t size : {std::size_t{1}, std::size_t{7}, bytes.size()}) {
    HttpReader reader(limits);
    const State state = feed(reader, bytes, std::max<std::size_t>(1, size));
    const int got = state == State::failed ? reader.error().status : 0;
    EXPECT_TRUE(status == -1 || got == status) << "in pieces of " << size << ": " << got;
    status = got;
  }
  return status;
}

std::string get(const std::string& fields, const std::string& target = "/") {
  return "GET " + target + " HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n";
}

TEST(HttpReader, ReadsARequestInAnyPieces) {
  for (std::size_t size = 1; size < 60; ++size) {
    HttpReader reader({});
    ASSERT_EQ(feed(reader, kPost, size), State::done);
    EXPECT_EQ(reader.head().method, "POST");
    EXPECT_EQ(reader.head().path, "/v1/completions");
    EXPECT_EQ(reader.head().host, "localhost:8080");
    EXPECT_EQ(reader.head().authorization, "Bearer k");
    EXPECT_EQ(reader.head().origin, "http://localhost:8080");
    EXPECT_EQ(reader.head().content_length, 5u);
    EXPECT_TRUE(reader.head().keep_alive);
    EXPECT_EQ(reader.take_body(), "hello");
    EXPECT_EQ(reader.rest(), "GET / HTTP/1.1\r\n") << "the next request stays";
  }
}

TEST(HttpReader, ReadsChunks) {
  HttpReader reader({});
  const std::string bytes =
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nrest";
  ASSERT_EQ(feed(reader, bytes, bytes.size()), State::done);
  EXPECT_TRUE(reader.head().chunked);
  EXPECT_EQ(reader.take_body(), "abcde");
  EXPECT_EQ(reader.rest(), "rest");
}

TEST(HttpReader, S8HeadersAreLimited) {
  EXPECT_EQ(refused(get("X: " + std::string(15000, 'x') + "\r\n")), 0);
  EXPECT_EQ(refused(get("X: " + std::string(17000, 'x') + "\r\n")), 431);
  EXPECT_EQ(refused(get("", "/" + std::string(17000, 'x'))), 431);
  std::string fields;
  for (int i = 0; i < 63; ++i) fields += "X" + std::to_string(i) + ": y\r\n";
  EXPECT_EQ(refused(get(fields)), 0);
  EXPECT_EQ(refused(get(fields + "Y: z\r\n")), 431);
  EXPECT_EQ(refused("GET " + std::string(100000, 'x')), 431) << "a line that never ends";
}

TEST(HttpReader, S8BodiesAreLimited) {
  Limits limits;
  limits.body_bytes = 100;
  const auto sized = [](const std::string& length, const std::string& body) {
    return "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + "\r\n\r\n" + body;
  };
  const auto chunked = [](const std::string& body) {
    return "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body;
  };
  EXPECT_EQ(refused(sized("100", std::string(100, 'x')), limits), 0);
  EXPECT_EQ(refused(sized("101", ""), limits), 413) << "before any byte of it";
  EXPECT_EQ(refused(sized("99999999999999999999999", ""), limits), 400);
  EXPECT_EQ(refused(sized("-1", ""), limits), 400);
  EXPECT_EQ(refused(chunked("40\r\n" + std::string(64, 'x') + "\r\n40\r\n"), limits), 413);
  EXPECT_EQ(refused(chunked("3;" + std::string(100000, 'x')), limits), 400);
  EXPECT_EQ(refused(chunked("ffffffffffffffffffffff\r\n"), limits), 400);
}

TEST(HttpReader, AHeaderAtItsLimitIsTakenHoweverItArrives) {
  Limits limits;
  for (const int fold : {0, 1})  // lines that continue the one before
    for (std::size_t size = 900; size < 1100; ++size) {
      limits.header_bytes = 1024;
      std::string bytes = "GET / HTTP/1.1\r\nHost: x\r\nA: ";
      while (bytes.size() + 4 < size)
        bytes += fold == 1 && bytes.size() % 16 == 0 && bytes.size() + 8 < size ? "\r\n\t" : "a";
      bytes += "\r\n\r\n";
      for (const std::size_t piece : {std::size_t{1}, std::size_t{5}, bytes.size()}) {
        SCOPED_TRACE(testing::Message() << bytes.size() << " bytes, pieces of " << piece);
        HttpReader reader(limits);
        for (std::size_t at = 0; at < bytes.size(); at += piece)
          reader.feed(std::string_view(bytes).substr(at, piece));
        const bool taken = reader.feed("") == HttpReader::State::done;
        EXPECT_EQ(taken, bytes.size() <= 1024);
      }
    }
}

TEST(HttpReader, WhatIsNoRequestIsRefused) {
  EXPECT_EQ(refused("\x16\x03\x01\x02"), 400);
  EXPECT_EQ(refused("GET\r\n\r\n"), 400);
  EXPECT_EQ(refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
  EXPECT_EQ(refused(get("", "http://x/")), 400);
  EXPECT_EQ(refused(get("", "*")), 400);
  EXPECT_EQ(refused(get("Host: y\r\n")), 400) << "two Hosts";
  EXPECT_EQ(refused(get("Origin: a\r\nOrigin: b\r\n")), 400);
  EXPECT_EQ(refused(get("Authorization: a\r\nAuthorization: b\r\n")), 400);
  EXPECT_EQ(refused(get("Expect: the-unexpected\r\n")), 417);
  EXPECT_EQ(refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: "
                    "chunked\r\n\r\n"),
            400)
      << "two lengths: whoever forwards it may see another request than we do";
}

TEST(HttpReply, Bytes) {
  HttpReply reply;
  reply.status = 503;
  reply.body = "{}";
  reply.headers = {{"Retry-After", "3"}};
  const std::string bytes = head_bytes(reply, false);
  EXPECT_TRUE(bytes.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
  EXPECT_NE(bytes.find("Content-Length: 2\r\nRetry-After: 3\r\nConnection: close\r\n\r\n"),
            std::string::npos);
  EXPECT_NE(head_bytes(reply, true).find("Connection: keep-alive\r\n\r\n"), std::string::npos);
  EXPECT_EQ(chunk_bytes("hello world, more than 15"), "19\r\nhello world, more than 15\r\n");
  EXPECT_EQ(chunk_bytes(""), "0\r\n\r\n");
  EXPECT_EQ(bytes.find("Access-Control"), std::string::npos) << "CORS is off";
}

TEST(HttpReply, ErrorsAreOpenAis) {
  ApiError error = bad_field("n", "n is 9 \xff");
  const Json body = Json::parse(error_json(error));
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
  EXPECT_EQ(body["error"]["param"], "n");
  EXPECT_TRUE(body["error"]["code"].is_null());
  EXPECT_EQ(body["error"]["message"], "n is 9 \xef\xbf\xbd");
  const auto status = [](herd::Code code) { return from_error({code, "x"}).status; };
  EXPECT_EQ(status(herd::Code::out_of_range), 400);
  EXPECT_EQ(status(herd::Code::invalid_argument), 400);
  EXPECT_EQ(status(herd::Code::resource_exhausted), 503);
  EXPECT_EQ(status(herd::Code::internal), 500);
  EXPECT_GT(from_error({herd::Code::resource_exhausted, "x"}).retry_after, 0);
}

// ---- who may ask ----

HttpHead from(const std::string& host, std::optional<std::string> origin = {}) {
  HttpHead head;
  head.host = host;
  head.origin = std::move(origin);
  return head;
}

TEST(Access, S12OnlyNamesThatAreThisServers) {
  const Access access{{}, {"herd.example"}};
  for (const char* host : {"localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "10.0.0.1",
                           "herd.example:80", "Herd.Example"})
    EXPECT_FALSE(check_host(from(host), access)) << host;
  for (const char* host : {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example",
                           "herd.example.evil", "xherd.example"})
    EXPECT_EQ(check_host(from(host), access)->status, 403) << host;
  for (const char* host : {"", ":80", "[::1", "localhost:8x", "localhost:80:80"})
    EXPECT_EQ(check_host(from(host), access)->status, 400) << host;
}

TEST(Access, S12OnlyItsOwnPages) {
  EXPECT_FALSE(check_origin(from("localhost:8080")));
  EXPECT_FALSE(check_origin(from("localhost:8080", "http://localhost:8080")));
  EXPECT_FALSE(check_origin(from("herd.example", "https://herd.example")));
  for (const char* origin : {"http://evil.example", "null", "", "http://localhost:8081",
                             "http://localhost", "file://", "http://localhost:8080.evil"})
    EXPECT_EQ(check_origin(from("localhost:8080", origin))->status, 403) << origin;
}

TEST(Access, S15Keys) {
  const Access access{{"first-key", "second-key"}, {}};
  EXPECT_EQ(find_key("Bearer first-key", access), 1u);
  EXPECT_EQ(find_key("bearer  second-key", access), 2u);
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer first-ke", "Bearer first-key2",
                            "Basic first-key", "first-key", "Bearer First-key"})
    EXPECT_FALSE(find_key(wrong, access)) << wrong;
  EXPECT_EQ(find_key("", {}), 0u) << "no keys: anybody";
}

TEST(Access, KeyFiles) {
  const auto keys = parse_keys("# who\n\n  one \r\ntwo\n");
  ASSERT_TRUE(keys.ok());
  EXPECT_EQ(*keys, (std::vector<std::string>{"one", "two"}));
  EXPECT_FALSE(parse_keys("").ok());
  EXPECT_FALSE(parse_keys("# nobody\n").ok());
  EXPECT_FALSE(parse_keys("with blank\n").ok());
}

TEST(Access, OthersReachItOnlyWithAKey) {
  EXPECT_TRUE(check_bind(true, false, false).ok());
  EXPECT_FALSE(check_bind(false, false, false).ok());
  EXPECT_TRUE(check_bind(false, true, false).ok());
  EXPECT_TRUE(check_bind(false, false, true).ok());
}

// ---- figures ----

TEST(Metrics, HistogramCounts) {
  Histogram h;
  for (const double value : {0.0005, 0.001, 0.02, 400.0}) h.add(value);
  const std::string text = h.text("x_seconds", "help");
  EXPECT_NE(text.find("x_seconds_bucket{le=\"0.001\"} 2\n"), std::string::npos) << text;
  EXPECT_NE(text.find("x_seconds_bucket{le=\"0.025\"} 3\n"), std::string::npos) << text;
  EXPECT_NE(text.find("x_seconds_bucket{le=\"300\"} 3\n"), std::string::npos) << text;
  EXPECT_NE(text.find("x_seconds_bucket{le=\"+Inf\"} 4\n"), std::string::npos) << text;
  EXPECT_NE(text.find("x_seconds_count 4\n"), std::string::npos) << text;
}

TEST(Metrics, RateIsOfTheLastSeconds) {
  RateMeter meter;
  const Clock::time_point start{};
  EXPECT_EQ(meter.rate(), 0.0);
  for (int i = 0; i <= 20; ++i)
    meter.add(start + milliseconds(500 * i), i <= 10 ? 0.0 : 5.0 * (i - 10));
  EXPECT_FALSE(!(std::abs(meter.rate() - 10.0) <= 1e-9)) << meter.rate();
}

TEST(Metrics, PrometheusNamesEverything) {
  Metrics metrics;
  metrics.request("/v1/completions");
  metrics.reject("queue_full");
  metrics.reject("queue_full");
  metrics.cancel("disconnect");
  metrics.first_token(0.01);
  herd::EngineStats stats;
  stats.pages_cached = 7;
  stats.not_finite = 3;
  const std::string text = metrics.prometheus(stats, {5, true});
  for (const char* line :
       {"herd_rejects_total{reason=\"queue_full\"} 2\n",
        "herd_cancels_total{reason=\"disconnect\"} 1\n", "herd_kv_pages{state=\"cached\"} 7\n",
        "herd_not_finite_total 3\n", "herd_connections 5\n", "herd_draining 1\n",
        "herd_time_to_first_token_seconds_count 1\n", "herd_requests_waiting 0\n",
        "herd_http_requests_total{route=\"/v1/completions\"} 1\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
}

}  // namespace
}  // namespace server
