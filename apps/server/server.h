// The sockets: connections, timeouts, signals. All of it runs on the thread that calls run(), what
// takes long (JSON, tokeniser, template) on a few workers; the engine's thread never waits for
// either.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "herd/engine.h"
#include "service.h"

namespace server {

struct ServerOptions {
  std::string address = "127.0.0.1";  // an IP address, or localhost
  std::uint16_t port = 8080;          // 0: any free one
  bool insecure = false;              // listen where others reach it, without keys
  bool handle_signals = true;         // SIGTERM and SIGINT
  int workers = 2;
  std::function<void(const std::string&)> log = {};  // one line an answered request, no prompts
  ServiceOptions service;
};

class Server {
 public:
  /// Listens. Errors: invalid_argument (an address that is none, or open without keys), io.
  static herd::Result<std::unique_ptr<Server>> create(std::unique_ptr<herd::Engine> engine,
                                                      ServerOptions options);
  ~Server();

  std::uint16_t port() const;
  /// Serves until stopped.
  void run();
  /// From any thread. Once: requests that run may end within drain_time, new ones are refused, then
  /// run() returns. Twice: they are cancelled.
  void stop();

  struct Impl;

 private:
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace server
