#include "server.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <list>

#include "session.h"

namespace server {
namespace {

using Error = boost::system::error_code;

constexpr std::size_t kRefusedSessions = 64;  // above the limit, being told so
constexpr int kSendBuffer = 128 << 10;        // the system may hold back that much of a slow reader
constexpr milliseconds kTick{500}, kDrainTick{20};
constexpr milliseconds kGrace{2000};  // for the last bytes of what was cancelled

ApiError shutting_down() {
  ApiError error;
  error.status = 503;
  error.message = "the server is shutting down";
  error.code = "shutting_down";
  error.reason = "shutdown";
  return error;
}

ApiError too_many_connections() {
  ApiError error;
  error.status = 503;
  error.message = "too many connections; try again later";
  error.code = "overloaded";
  error.reason = "connections";
  return error;
}

herd::Result<Tcp::endpoint> make_endpoint(const ServerOptions& options) {
  Error error;
  const auto address =
      asio::ip::make_address(options.address == "localhost" ? "127.0.0.1" : options.address, error);
  if (error)
    return herd::Error{herd::Code::invalid_argument,
                       fmt::format("{} is no IP address", shown(options.address))};
  const herd::Status allowed =
      check_bind(address.is_loopback(), !options.service.access.keys.empty(), options.insecure);
  if (!allowed.ok())
    return herd::Error{allowed.error().code,
                       fmt::format("{}: {}", options.address, allowed.error().message)};
  return Tcp::endpoint(address, options.port);
}

}  // namespace

struct Server::Impl {
  Impl(std::unique_ptr<herd::Engine> e, herd::Vocabulary vocabulary, ServerOptions o)
      : options(std::move(o)),
        acceptor(io),
        signals(io),
        accept_timer(io),
        tick_timer(io),
        drain_timer(io),
        engine(std::move(e)),
        service(*engine, std::move(vocabulary), options.service),
        workers(static_cast<std::size_t>(options.workers)),
        shared(service, io, workers) {
    shared.log = options.log;
  }

  herd::Status listen(const Tcp::endpoint& endpoint);
  void accept();
  void on_socket(Tcp::socket socket);
  void wait_for_signal();
  void tick();
  void stop();
  void drain();
  void check_drained();
  void abort_all();
  void close_all();
  std::vector<std::shared_ptr<Session>> open_sessions();

  ServerOptions options;
  asio::io_context io{1};
  Tcp::acceptor acceptor;
  asio::signal_set signals;
  asio::steady_timer accept_timer, tick_timer, drain_timer;
  std::unique_ptr<herd::Engine> engine;  // after io: its last events may still be posted there
  Service service;
  asio::thread_pool workers;
  Shared shared;
  std::list<std::weak_ptr<Session>> sessions;
  int stops = 0;
  bool aborted = false;
  Clock::time_point drain_end;
};

// ---- connections ----

herd::Status Server::Impl::listen(const Tcp::endpoint& endpoint) {
  try {
    acceptor.open(endpoint.protocol());
    acceptor.set_option(Tcp::acceptor::reuse_address(true));
    acceptor.bind(endpoint);
    acceptor.listen();
  } catch (const boost::system::system_error& error) {
    return {herd::Code::io, fmt::format("cannot listen on {}:{}: {}", options.address, options.port,
                                        error.code().message())};
  }
  return {};
}

void Server::Impl::accept() {
  acceptor.async_accept([this](Error error, Tcp::socket socket) {
    if (!acceptor.is_open()) return;
    if (!error) on_socket(std::move(socket));
    if (error != asio::error::no_descriptors) return accept();
    accept_timer.expires_after(kTick);  // no file descriptor left: connections wait in the kernel
    accept_timer.async_wait([this](Error e) {
      if (!e) accept();
    });
  });
}

void Server::Impl::on_socket(Tcp::socket socket) {
  const std::size_t limit = options.service.limits.connections;
  if (shared.sessions >= limit + kRefusedSessions) return;  // closes it
  Error ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  socket.set_option(Tcp::socket::send_buffer_size(kSendBuffer), ignored);
  const bool refused = shared.sessions >= limit;
  const auto session = std::make_shared<Session>(std::move(socket), shared);
  sessions.remove_if([](const auto& each) { return each.expired(); });
  sessions.push_back(session);
  if (refused)
    session->start_refused(too_many_connections());
  else
    session->start();
}

std::vector<std::shared_ptr<Session>> Server::Impl::open_sessions() {
  std::vector<std::shared_ptr<Session>> open;
  for (const auto& each : sessions)
    if (auto session = each.lock()) open.push_back(std::move(session));
  return open;
}

void Server::Impl::tick() {
  service.tick(Clock::now());
  tick_timer.expires_after(kTick);
  tick_timer.async_wait([this](Error error) {
    if (!error) tick();
  });
}

// ---- the end ----

void Server::Impl::wait_for_signal() {
  signals.async_wait([this](Error error, int) {
    if (error) return;
    wait_for_signal();
    stop();
  });
}

void Server::Impl::stop() {
  if (++stops == 1) drain();
  if (stops == 2) drain_end = Clock::now();
}

void Server::Impl::drain() {
  if (options.log) options.log("draining: requests that run may end");
  service.drain();
  drain_end = Clock::now() + options.service.limits.drain_time;
  check_drained();
}

/// Ends the server when nothing runs and every reply has been read or timed out.
void Server::Impl::check_drained() {
  const auto now = Clock::now();
  if (now >= drain_end) abort_all();
  bool quiet = service.jobs() == 0;
  const auto open = open_sessions();
  for (const auto& session : open) quiet = quiet && session->idle();
  if (quiet || now >= drain_end + kGrace) return close_all();
  drain_timer.expires_after(kDrainTick);
  drain_timer.async_wait([this](Error error) {
    if (!error) check_drained();
  });
}

/// Leaves io without work, so that run() returns.
void Server::Impl::close_all() {
  for (const auto& session : open_sessions()) session->close();
  Error ignored;
  acceptor.close(ignored);
  signals.cancel(ignored);
  accept_timer.cancel();
  tick_timer.cancel();
}

void Server::Impl::abort_all() {
  if (std::exchange(aborted, true)) return;
  for (const auto& session : open_sessions()) session->abort_job(shutting_down());
}

// ---- the public face ----

herd::Result<std::unique_ptr<Server>> Server::create(std::unique_ptr<herd::Engine> engine,
                                                     ServerOptions options) {
  const auto endpoint = make_endpoint(options);
  if (!endpoint.ok()) return endpoint.error();
  auto vocabulary = engine->vocabulary();
  if (!vocabulary.ok()) return vocabulary.error();
  auto impl = std::make_unique<Impl>(std::move(engine), std::move(*vocabulary), std::move(options));
  if (herd::Status status = impl->listen(*endpoint); !status.ok()) return status.error();
  if (impl->options.handle_signals) {  // from now on: whoever hears of the port may send one
    impl->signals.add(SIGTERM);
    impl->signals.add(SIGINT);
    impl->wait_for_signal();
  }
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() {
  impl_->workers.join();
  impl_->io.restart();
  impl_->io.poll();  // what a worker handed over last
}

std::uint16_t Server::port() const {
  return impl_->acceptor.local_endpoint().port();
}

void Server::run() {
  impl_->accept();
  impl_->tick();
  for (;;) {
    try {
      impl_->io.run();
      return;
    } catch (const std::exception& e) {  // no memory: whoever it met is lost, the others go on
      if (impl_->options.log) impl_->options.log(e.what());
    }
  }
}

void Server::stop() {
  asio::post(impl_->io, [impl = impl_.get()] { impl->stop(); });
}

}  // namespace server
