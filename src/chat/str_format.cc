#include "chat/str_format.h"

#include <algorithm>
#include <charconv>

#include "chat/failure.h"
#include "chat/library.h"
#include "chat/show.h"

namespace herd::chat {
namespace {

class Formatter {
 public:
  Formatter(Interpreter& walk, const Arguments& arguments) : walk_(walk), arguments_(arguments) {}

  std::string run(std::string_view form, int nested = 0) {
    if (nested > 2) wrong("format: fields nested too deeply");
    Text out(walk_.heap());
    for (std::size_t at = 0; at < form.size();) {
      const char c = form[at];
      const bool doubled = at + 1 < form.size() && form[at + 1] == c;
      if (c != '{' && c != '}') {
        const std::size_t end = std::min(form.find_first_of("{}", at), form.size());
        out.add(form.substr(at, end - at));
        at = end;
      } else if (doubled) {
        out.add(c);
        at += 2;
      } else if (c == '}') {
        wrong("format: single '}}' encountered");
      } else {
        const std::size_t end = field_end(form, at + 1);
        out.add(field(form.substr(at + 1, end - at - 1), nested));
        at = end + 1;
      }
    }
    return out.take();
  }

 private:
  static std::size_t field_end(std::string_view form, std::size_t at) {
    for (int open = 1; at < form.size(); ++at) {
      if (form[at] == '{') ++open;
      if (form[at] == '}' && --open == 0) return at;
    }
    wrong("format: expected '}}' before end of string");
  }

  std::string field(std::string_view text, int nested) {
    walk_.heap().step();
    const std::size_t cut = std::min(text.find_first_of("!:"), text.size());
    Value value = named(text.substr(0, cut));
    std::string_view rest = text.substr(cut);
    if (rest.starts_with('!')) {
      if (rest.size() < 2) wrong("format: a conversion is missing after '!'");
      if (rest[1] == 'r' || rest[1] == 'a')
        value = walk_.heap().string(to_repr(walk_.heap(), value));
      else if (rest[1] == 's')
        value = walk_.heap().string(walk_.str(value));
      else
        wrong("format: unknown conversion '{}'", rest[1]);
      rest.remove_prefix(2);
    }
    if (rest.empty()) return walk_.str(value);
    if (rest[0] != ':') wrong("format: expected ':' after conversion specifier");
    return format_value(walk_.heap(), value, run(rest.substr(1), nested + 1));
  }

  /// "", "0", "name", then .attribute and [item] parts.
  Value named(std::string_view name) {
    const std::size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = first(name.substr(0, end), end == name.size());
    for (std::size_t at = end; at < name.size();) {
      if (name[at] == '[') {
        const std::size_t close = name.find(']', at);
        if (close == name.npos) wrong("format: missing ']'");
        const std::string_view key = name.substr(at + 1, close - at - 1);
        std::size_t number = 0;
        const auto read = std::from_chars(key.data(), key.data() + key.size(), number);
        const bool index = read.ec == std::errc() && read.ptr == key.data() + key.size();
        value = walk_.item(value,
                           index ? Value::integer(number) : walk_.heap().string(std::string(key)));
        at = close + 1;
      } else if (name[at] == '.') {
        const std::size_t stop = std::min(name.find_first_of(".[", at + 1), name.size());
        value = walk_.attribute(value, name.substr(at + 1, stop - at - 1));
        at = stop;
      } else {
        wrong("format: only '.' or '[' may follow ']'");
      }
    }
    return value;
  }

  Value first(std::string_view name, bool alone) {
    std::size_t number = 0;
    if (name.empty()) {
      if (manual_) wrong("format: cannot mix {{}} with numbered fields");
      number = next_++;
    } else {
      const auto read = std::from_chars(name.data(), name.data() + name.size(), number);
      if (read.ec != std::errc() || read.ptr != name.data() + name.size()) {
        for (const auto& [key, value] : arguments_.named)
          if (key == name) return value;
        wrong("format: no argument '{}'", name);
      }
      if (alone && next_ > 0) wrong("format: cannot mix {{}} with numbered fields");
      manual_ = manual_ || alone;
    }
    if (number >= arguments_.positional.size()) wrong("format: no argument {}", number);
    return arguments_.positional[number];
  }

  Interpreter& walk_;
  const Arguments& arguments_;
  std::size_t next_ = 0;
  bool manual_ = false;
};

}  // namespace

std::string format_text(Interpreter& walk, std::string_view form, const Arguments& arguments) {
  return Formatter(walk, arguments).run(form);
}

}  // namespace herd::chat
