#include "session.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>

namespace server {
namespace {

using Error = boost::system::error_code;

constexpr std::size_t kAheadBytes = 16u << 10;   // kept of requests sent before their turn
constexpr std::size_t kPieceBytes = 256u << 10;  // a reader takes this in slow_reader, or is gone
constexpr std::size_t kSmallBody = 64u << 10;
constexpr milliseconds kLinger{1000};

ApiError late(std::string message) {
  ApiError error;
  error.status = 408;
  error.message = std::move(message);
  error.code = "timeout";
  error.reason = "read_timeout";
  return error;
}

}  // namespace

Session::Session(Tcp::socket socket, Shared& shared)
    : socket_(std::move(socket)),
      shared_(shared),
      timer_(shared.io),
      reader_(std::make_unique<HttpReader>(shared.service.limits())) {
  ++shared_.sessions;
  shared_.service.set_connections(shared_.sessions);
}

Session::~Session() {
  give_body_budget_back();
  --shared_.sessions;
  shared_.service.set_connections(shared_.sessions);
}

void Session::start() {
  header_timed_ = true;
  wait_until_due(shared_.service.limits().header_time, &Session::on_header_late);
  read();
}

void Session::start_refused(ApiError why) {
  refusal_ = std::move(why);
  wait_until_due(kLinger, &Session::close);
  read();
}

// ---- in ----

void Session::read() {
  if (read_open_ || state_ == State::closed) return;
  read_open_ = true;
  socket_.async_read_some(asio::buffer(chunk_),
                          [self = shared_from_this()](Error error, std::size_t n) {
                            self->read_open_ = false;
                            if (self->state_ == State::closed) return;
                            if (error)
                              self->on_gone();
                            else
                              self->on_read({self->chunk_, n});
                          });
}

void Session::on_read(std::string_view bytes) {
  if (state_ == State::closing) return read();  // of no interest any longer
  if (state_ == State::reading) {
    advance(bytes);
  } else {
    ahead_ += bytes;
  }
  // While a request runs, reading shows whether the client is still there.
  if (ahead_.size() < kAheadBytes) read();
}

/// The client has closed its end, or the connection is broken.
void Session::on_gone() {
  close();
}

void Session::advance(std::string_view bytes) {
  if (!header_timed_ && !bytes.empty()) {
    header_timed_ = true;
    wait_until_due(shared_.service.limits().header_time, &Session::on_header_late);
  }
  auto state = reader_->feed(bytes);
  if (state == HttpReader::State::body && body_budget_ == 0) {
    on_header();
    if (state_ != State::reading) return;
    state = reader_->feed("");
  }
  if (state == HttpReader::State::failed) return fail(reader_->error());
  if (state == HttpReader::State::done) dispatch();
}

/// The header is whole: whoever may not go on learns it before the body is read.
void Session::on_header() {
  const HttpHead& head = reader_->head();
  arrived_ = Clock::now();
  keep_alive_ = head.keep_alive;
  if (refusal_) return fail(*refusal_);
  const auto refused = shared_.service.check_head(head);
  const bool body = head.chunked || head.content_length.value_or(0) > 0;
  const bool small = !head.chunked && head.content_length.value_or(0) <= kSmallBody;
  if (refused && (!small || head.expects_continue)) {
    keep_alive_ = false;
    return reply(*refused);
  }
  early_ = refused;  // a small body is read nevertheless, so that the connection can go on
  const Limits& limits = shared_.service.limits();
  const std::size_t bytes =
      head.chunked ? limits.body_bytes : static_cast<std::size_t>(head.content_length.value_or(0));
  if (shared_.body_bytes + bytes > limits.all_body_bytes) {
    ApiError error;
    error.status = 503;
    error.code = "overloaded";
    error.message = "too many large requests at once; try again later";
    error.reason = "body_budget";
    return fail(error);
  }
  take_body_budget(bytes);
  if (!body) return;
  wait_until_due(limits.body_time, &Session::on_body_late);
  if (head.expects_continue && reader_->rest().empty()) {
    next_out_ = "HTTP/1.1 100 Continue\r\n\r\n";
    write_some();
  }
}

void Session::dispatch() {
  forget_deadline();
  state_ = State::running;
  ahead_ = reader_->rest();
  if (early_) return reply(*std::exchange(early_, {}));
  const HttpHead head = reader_->head();
  std::string body = reader_->take_body();
  auto wake = [weak = weak_from_this(), &io = shared_.io] {
    asio::post(io, [weak] {
      if (const auto self = weak.lock()) self->on_wake();
    });
  };
  if (shared_.service.is_light(head))
    return on_handled(shared_.service.handle(head, body, std::move(wake)));
  asio::post(shared_.workers, [self = shared_from_this(), &shared = shared_, head,
                               body = std::move(body), wake = std::move(wake)]() mutable {
    auto handled =
        std::make_shared<Service::Handled>(shared.service.handle(head, body, std::move(wake)));
    body = {};
    asio::post(shared.io, [self = std::move(self), handled = std::move(handled)] {
      self->on_handled(std::move(*handled));
    });
  });
}

// ---- out ----

void Session::on_handled(Service::Handled handled) {
  give_body_budget_back();
  if (state_ == State::closed) return;  // gone meanwhile: a job is cancelled as it is dropped
  if (const auto* made = std::get_if<HttpReply>(&handled)) return reply(*made);
  job_ = std::move(std::get<std::unique_ptr<Job>>(handled));
  stream_begun_ = false;
  pump();
}

void Session::on_wake() {
  if (!job_ || state_ != State::running) return;
  if (writing_)
    wake_pending_ = true;  // what comes stays with the engine, which sees who reads too slowly
  else
    pump();
}

void Session::pump() {
  Job::Output output = job_->poll(Clock::now());
  if (output.done) job_.reset();
  if (output.reply) return reply(*output.reply);
  if (output.stream.empty() && !output.done) return;
  const bool chunked = reader_->head().version == 11;
  keep_alive_ = keep_alive_ && chunked && !shared_.service.draining();
  std::string bytes;
  if (!std::exchange(stream_begun_, true)) bytes = stream_head_bytes(chunked, keep_alive_);
  if (chunked && !output.stream.empty())
    bytes += chunk_bytes(output.stream);
  else
    bytes += output.stream;
  if (chunked && output.done) bytes += chunk_bytes("");
  if (output.done) log_line(200);
  send(std::move(bytes), output.done);
}

void Session::reply(const HttpReply& reply) {
  keep_alive_ = keep_alive_ && !shared_.service.draining();
  log_line(reply.status);
  send(head_bytes(reply, keep_alive_) + reply.body, true);
}

void Session::fail(const ApiError& error) {
  keep_alive_ = false;
  arrived_ = Clock::now();
  reply(shared_.service.refuse(error));
}

/// `last`: of this request.
void Session::send(std::string bytes, bool last) {
  if (last) state_ = keep_alive_ ? State::running : State::closing;
  last_write_ = last;
  next_out_ += bytes;
  write_some();
}

void Session::write_some() {
  if (writing_) return;
  if (out_at_ == out_.size()) {
    out_ = std::exchange(next_out_, {});
    out_at_ = 0;
  }
  writing_ = true;
  if (state_ != State::reading)
    wait_until_due(shared_.service.limits().slow_reader, &Session::close);
  const std::size_t piece = std::min(kPieceBytes, out_.size() - out_at_);
  asio::async_write(socket_, asio::buffer(out_.data() + out_at_, piece),
                    [self = shared_from_this()](Error error, std::size_t n) {
                      self->writing_ = false;
                      if (self->state_ == State::closed) return;
                      if (error)
                        self->on_gone();
                      else
                        self->on_written(n);
                    });
}

void Session::on_written(std::size_t bytes) {
  out_at_ += bytes;
  if (out_at_ < out_.size() || !next_out_.empty()) return write_some();
  if (state_ == State::reading) return;  // that was 100 Continue
  forget_deadline();
  if (state_ == State::closing) return linger();
  if (std::exchange(last_write_, false)) return next_request();
  if (std::exchange(wake_pending_, false) && job_) pump();
}

void Session::next_request() {
  give_body_budget_back();
  reader_ = std::make_unique<HttpReader>(shared_.service.limits());
  state_ = State::reading;
  header_timed_ = false;
  wake_pending_ = false;
  wait_until_due(shared_.service.limits().idle_time, &Session::close);
  const std::string bytes = std::exchange(ahead_, {});
  if (!bytes.empty()) advance(bytes);
  read();
}

/// Says that nothing follows, and gives the client time to read: closing with bytes unread would
/// take the reply away from it.
void Session::linger() {
  Error ignored;
  socket_.shutdown(Tcp::socket::shutdown_send, ignored);
  give_body_budget_back();
  wait_until_due(kLinger, &Session::close);
  read();
}

// ---- ends ----

void Session::abort_job(const ApiError& why) {
  if (!job_) return;
  job_->abort(why);
  on_wake();
}

void Session::close() {
  if (state_ == State::closed) return;
  state_ = State::closed;
  job_.reset();
  timer_.cancel();
  Error ignored;
  socket_.close(ignored);
}

void Session::wait_until_due(milliseconds time, void (Session::*then)()) {
  timer_.expires_after(time);
  timer_.async_wait([self = shared_from_this(), then](Error error) {
    // A wait that was cancelled after it had ended must not count either.
    if (!error && self->timer_.expiry() <= Clock::now()) ((*self).*then)();
  });
}

void Session::forget_deadline() {
  timer_.expires_at(Clock::time_point::max());
}

void Session::on_header_late() {
  if (state_ != State::reading) return;
  if (!reader_->started()) return close();
  fail(late("the header took too long"));
}
void Session::on_body_late() {
  if (state_ == State::reading) fail(late("the body took too long"));
}

/// At least one, so that a request that was let pass is known by it.
void Session::take_body_budget(std::size_t bytes) {
  body_budget_ = std::max<std::size_t>(1, bytes);
  shared_.body_bytes += body_budget_;
}
void Session::give_body_budget_back() {
  shared_.body_bytes -= std::exchange(body_budget_, 0);
}

void Session::log_line(int status) {
  if (!shared_.log) return;
  const HttpHead& head = reader_->head();
  const double ms = std::chrono::duration<double, std::milli>(Clock::now() - arrived_).count();
  shared_.log(fmt::format("{} {} {} {:.1f} ms", head.method.empty() ? "-" : shown(head.method),
                          head.path.empty() ? "-" : shown(head.path), status, ms));
}

}  // namespace server
