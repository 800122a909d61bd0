// Errors as values. Nothing in herd throws across a public function, prints, aborts or exits.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace herd {

/// What went wrong, coarse enough to act on; the message says the rest.
enum class Code {
  invalid_argument,    // the caller passed something that can never work
  not_found,           // a file or a name is absent
  out_of_range,        // a value is outside its documented limits
  unsupported,         // well-formed, but not something this build can run
  corrupt,             // the bytes of a file contradict themselves
  resource_exhausted,  // memory, pages or rows ran out
  io,                  // the operating system refused a read or a write
  cancelled,           // the caller asked to stop
  internal,            // a bug in herd
};

std::string_view to_string(Code code);

/// One line that names the thing, its value and the limit it broke.
struct Error {
  Code code = Code::internal;
  std::string message;
};

/// Success, or an Error. Thread-compatible value type.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT: errors convert on return
  Status(Code code, std::string message) : error_(Error{code, std::move(message)}) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  /// REQUIRES: !ok().
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

/// A T, or an Error. Thread-compatible value type.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT
  Result(Code code, std::string message) : Result(Error{code, std::move(message)}) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  /// REQUIRES: ok().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  /// REQUIRES: !ok().
  const Error& error() const { return std::get<1>(state_); }
  Status status() const { return ok() ? Status() : Status(error()); }

 private:
  std::variant<T, Error> state_;
};

}  // namespace herd
