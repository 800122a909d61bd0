// One connection: requests in, replies and streams out.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <optional>
#include <string>

#include "http_reader.h"
#include "service.h"

namespace server {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

/// What the sessions of a server share. Used on its thread only, except where said.
struct Shared {
  Shared(Service& s, asio::io_context& i, asio::thread_pool& w) : service(s), io(i), workers(w) {}
  Service& service;
  asio::io_context& io;
  asio::thread_pool& workers;
  std::size_t sessions = 0;    // open connections
  std::size_t body_bytes = 0;  // of requests that are being read or wait for a worker
  std::function<void(const std::string&)> log;
};

/// Kept alive by its open operations. Everything runs on the thread of shared.io.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Tcp::socket socket, Shared& shared);
  ~Session();

  void start();
  /// Answers whatever comes with this error and closes.
  void start_refused(ApiError why);
  /// Between two requests, with nothing to send.
  bool idle() const { return state_ == State::reading && !reader_->started() && !writing_; }
  void abort_job(const ApiError& why);
  void close();

 private:
  enum class State {
    reading,  // a request
    running,  // a worker or a job
    closing,  // the last reply goes out, then the client may read it
    closed,
  };

  void read();
  void on_read(std::string_view bytes);
  void on_gone();
  void advance(std::string_view bytes);
  void on_header();
  void dispatch();
  void on_handled(Service::Handled handled);
  void on_wake();
  void pump();

  void reply(const HttpReply& reply);
  void fail(const ApiError& error);  // a reply after which the connection ends
  void send(std::string bytes, bool last);
  void write_some();
  void on_written(std::size_t bytes);
  void next_request();
  void linger();

  void wait_until_due(milliseconds time, void (Session::*then)());
  void forget_deadline();
  void on_header_late();
  void on_body_late();
  void take_body_budget(std::size_t bytes);
  void give_body_budget_back();
  void log_line(int status);

  Tcp::socket socket_;
  Shared& shared_;
  asio::steady_timer timer_;
  std::unique_ptr<HttpReader> reader_;
  State state_ = State::reading;
  std::optional<ApiError> refusal_;  // of the whole connection
  std::optional<HttpReply> early_;   // to a request whose body is still to be read
  char chunk_[16 << 10];
  std::string ahead_;       // bytes of later requests that came while one runs
  bool read_open_ = false;  // a read is on its way
  bool header_timed_ = false;

  std::unique_ptr<Job> job_;
  bool stream_begun_ = false;
  bool keep_alive_ = false;  // after this request

  std::string out_, next_out_;  // being written, from out_at_ on; and what follows
  std::size_t out_at_ = 0;
  bool writing_ = false, last_write_ = false;
  bool wake_pending_ = false;
  std::size_t body_budget_ = 0;
  Clock::time_point arrived_;
};

}  // namespace server
