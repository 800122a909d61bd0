// JSON text straight into values: members in order, numbers as they were spelt.
#include <charconv>
#include <nlohmann/json.hpp>

#include "chat/failure.h"
#include "chat/show.h"
#include "chat/text.h"

namespace herd::chat {
namespace {

using nlohmann::json;

Value read_big(const std::string& text) {
  Int value = 0;
  const bool negative = text[0] == '-';
  for (const char c : text.substr(negative ? 1 : 0))
    if (__builtin_mul_overflow(value, Int{10}, &value) ||
        __builtin_add_overflow(value, Int{c - '0'}, &value))
      fail(Code::out_of_range,
           fmt::format("variables: the integer {}... has more than 127 bits", text.substr(0, 40)));
  return Value(negative ? -value : value);
}

/// nlohmann's event interface, building values as it goes.
class Builder : public nlohmann::json_sax<json> {
 public:
  explicit Builder(Heap& heap) : heap_(heap) {}
  Value result() { return std::move(result_); }
  const std::string& error() const { return error_; }

  bool null() override { return add(Value(None{})); }
  bool boolean(bool value) override { return add(Value(value)); }
  bool number_integer(std::int64_t value) override { return add(Value(Int{value})); }
  bool number_unsigned(std::uint64_t value) override { return add(Value(Int{value})); }
  bool number_float(double value, const std::string& text) override {
    if (text.find_first_of(".eE") == text.npos) return add(read_big(text));
    return add(Value(value));
  }
  bool string(std::string& value) override { return add(heap_.string(std::move(value))); }
  bool binary(json::binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool key(std::string& name) override {
    open_.back().key = heap_.string(std::move(name));
    return true;
  }
  bool end_object() override {
    Value value = heap_.dict(std::move(open_.back().dict));
    open_.pop_back();
    return add(std::move(value));
  }
  bool end_array() override {
    Value value = heap_.list(std::move(open_.back().items));
    open_.pop_back();
    return add(std::move(value));
  }
  bool parse_error(std::size_t at, const std::string&, const json::exception&) override {
    error_ = fmt::format("byte {}", at);
    return false;
  }

 private:
  struct Open {
    bool object = false;
    Value key;
    Dict dict;
    std::vector<Value> items;
  };

  bool open(bool object) {
    heap_.step();
    if (open_.size() >= static_cast<std::size_t>(heap_.limits().depth))
      fail(Code::resource_exhausted,
           fmt::format("variables: JSON nested more than {} deep", heap_.limits().depth));
    open_.emplace_back().object = object;
    return true;
  }
  bool add(Value value) {
    if (open_.empty())
      result_ = std::move(value);
    else if (open_.back().object)
      open_.back().dict.set(open_.back().key, std::move(value));
    else
      open_.back().items.push_back(std::move(value));
    return true;
  }

  Heap& heap_;
  std::vector<Open> open_;
  Value result_;
  std::string error_;
};

}  // namespace

Value read_json(Heap& heap, std::string_view text) {
  if (!valid_utf8(text)) fail(Code::invalid_argument, "variables: the JSON is not valid UTF-8");
  Builder builder(heap);
  if (!json::sax_parse(text.begin(), text.end(), &builder))
    fail(Code::invalid_argument, fmt::format("variables: not valid JSON ({})", builder.error()));
  Value value = builder.result();
  if (!value.is_dict())
    fail(Code::invalid_argument, "variables: the JSON must be an object of variables");
  return value;
}

}  // namespace herd::chat
