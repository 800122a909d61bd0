// What one client may cost the server. Defaults; each is a flag of herd serve.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace server {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct Limits {
  // one connection
  std::size_t header_bytes = 16u << 10;
  std::size_t header_fields = 64;
  milliseconds header_time{10'000};
  std::size_t body_bytes = 8u << 20;
  milliseconds body_time{60'000};
  milliseconds idle_time{60'000};  // between two requests
  // all connections
  std::size_t connections = 1024;
  std::size_t all_body_bytes = 256u << 20;  // of bodies being read or waiting to be parsed
  // one request
  int json_depth = 64;
  int choices = 8;  // n, best_of
  std::size_t prompts = 64;
  std::size_t messages = 4096;
  int logprobs = 20;
  std::size_t stops = 4;
  std::size_t stop_bytes = 256;
  std::size_t logit_biases = 1024;
  std::size_t schema_bytes = 256u << 10;  // no flag: what the library takes
  std::size_t answer_bytes = 256u << 20;  // JSON of an answer at its longest
  // one API key; 0: no limit
  int key_requests = 0;
  // the engine's: queue, queue tokens, queue wait, wall time, slow reader (herd/engine.h)
  milliseconds slow_reader{30'000};  // for 256 KiB of output
  double health_seconds = 2;         // an engine that got on no later than this is well
  milliseconds drain_time{30'000};
};

}  // namespace server
