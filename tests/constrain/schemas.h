// The slow twins of src/constrain: a reader with continuations that follows the schema itself, a
// validator of finished values, and schemas made at random.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "token/utf8.h"

namespace herd::test {

using Json = nlohmann::ordered_json;

/// Tries every way through the schema. In partial mode running out of text counts as a yes: so the
/// question is whether the text can go on to a whole value.
class SlowReader {
 public:
  explicit SlowReader(const Json& schema) : root_(schema) {}

  bool viable(const std::string& text) { return read(text, true); }
  bool whole(const std::string& text) { return read(text, false); }

 private:
  using Next = std::function<bool(std::size_t)>;

  bool read(const std::string& text, bool partial) {
    text_ = text;
    partial_ = partial;
    return space(0, [&](std::size_t at) {
      return value(root_, at, [&](std::size_t end) { return end == text_.size(); });
    });
  }
  bool out(std::size_t at) const { return at >= text_.size(); }

  bool word(std::string_view word, std::size_t at, const Next& next) {
    for (const char c : word) {
      if (out(at)) return partial_;
      if (text_[at++] != c) return false;
    }
    return next(at);
  }
  bool space(std::size_t at, const Next& next) {
    if (out(at) && partial_) return true;
    if (next(at)) return true;
    if (out(at)) return false;
    if (text_[at] == ' ') return next(at + 1);
    if (text_[at] != '\n') return false;
    for (std::size_t end = at + 1; end <= text_.size() && end - at <= 33; ++end) {
      if (next(end)) return true;
      if (end == text_.size() || (text_[end] != ' ' && text_[end] != '\t')) return false;
    }
    return false;
  }

  bool value(const Json& s, std::size_t at, const Next& next) {
    if (s.is_boolean()) return s.get<bool>() && value(Json::object(), at, next);
    if (s.contains("$ref")) {
      const std::string ref = s["$ref"];
      return value(root_.at(Json::json_pointer(ref.substr(1))), at, next);
    }
    for (const char* key : {"anyOf", "oneOf", "allOf"})
      if (s.contains(key)) {
        for (const Json& each : s[key])
          if (value(each, at, next)) return true;
        return false;
      }
    if (s.contains("const")) return literal(s["const"], at, next);
    if (s.contains("enum")) {
      for (const Json& each : s["enum"])
        if (literal(each, at, next)) return true;
      return false;
    }
    std::vector<std::string> types = {"object", "array", "string", "number", "boolean", "null"};
    if (s.contains("type")) {
      types.clear();
      for (const Json& t : s["type"].is_array() ? s["type"] : Json::array({s["type"]}))
        types.push_back(t);
    }
    for (const std::string& type : types)
      if (typed(s, type, at, next)) return true;
    return false;
  }

  bool typed(const Json& s, const std::string& type, std::size_t at, const Next& next) {
    if (type == "null") return word("null", at, next);
    if (type == "boolean") return word("true", at, next) || word("false", at, next);
    if (type == "string")
      return word("\"", at, [&](std::size_t in) {
        return string(s.value("minLength", 0), s.value("maxLength", 1 << 30), in, {}, next);
      });
    if (type == "object") return word("{", at, [&](std::size_t in) { return object(s, in, next); });
    if (type == "array") return word("[", at, [&](std::size_t in) { return array(s, in, next); });
    return number(s, type == "integer", at, next);
  }

  /// `taken`: names that are not meant, and then no escapes either.
  bool string(int min, int max, std::size_t at, const std::vector<std::string>& taken,
              const Next& next) {
    const std::size_t start = at;
    for (int count = 0;; ++count) {
      if (out(at)) return partial_;
      if (text_[at] == '"') {
        const std::string inside = text_.substr(start, at - start);
        if (std::ranges::find(taken, inside) != taken.end()) return false;
        return count >= min && next(at + 1);
      }
      if (count >= max) return false;
      if (text_[at] == '\\') {
        if (!taken.empty()) return false;
        const auto size = escape(std::string_view(text_).substr(at));
        if (size <= 0) return size < 0 && partial_;
        at += static_cast<std::size_t>(size);
        continue;
      }
      if (static_cast<unsigned char>(text_[at]) < 0x20) return false;
      const utf8::CodePoint point = utf8::decode(text_, at);
      if (point.truncated) return partial_;
      if (!point.valid) return false;
      at += point.bytes;
    }
  }
  /// Bytes of the escape there; 0: none; -1: cut off.
  static int escape(std::string_view text) {
    if (text.size() < 2) return -1;
    if (text[1] != 'u') return std::string_view("\"\\/bfnrt").find(text[1]) < 8 ? 2 : 0;
    static const std::string kHex = "0123456789abcdefABCDEF";
    const auto digits = [&](std::size_t at, const std::vector<std::string>& sets) {
      for (std::size_t i = 0; i < sets.size(); ++i) {
        if (at + i >= text.size()) return -1;
        if (sets[i].find(text[at + i]) == std::string::npos) return 0;
      }
      return 1;
    };
    const int plain = digits(2, {"0123456789abcefABCEF", kHex, kHex, kHex});
    if (plain != 0) return plain < 0 ? -1 : 6;
    const int below = digits(2, {"dD", "01234567", kHex, kHex});
    if (below != 0) return below < 0 ? -1 : 6;
    const int pair =
        digits(2, {"dD", "89abAB", kHex, kHex, "\\", "u", "dD", "cdefCDEF", kHex, kHex});
    return pair < 0 ? -1 : pair * 12;
  }

  bool number(const Json& s, bool integer, std::size_t at, const Next& next) {
    std::size_t end = at;
    while (!out(end) && std::string_view("+-.eE0123456789").find(text_[end]) < 15) ++end;
    const std::string spelt = text_.substr(at, end - at);
    if (out(end) && partial_ && may_become(spelt, s, integer)) return true;
    return is_number(spelt, s, integer) && next(end);
  }
  static bool bounded(const Json& s) {
    for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
      if (s.contains(key)) return true;
    return false;
  }
  static std::size_t most_fraction(const Json& s) {
    std::size_t longest = 1;
    for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
      if (s.contains(key))
        longest = std::max(longest, std::to_string(std::abs(s[key].get<int>())).size());
    return 15 - longest;
  }
  static bool within(double x, const Json& s) {
    return !(s.contains("minimum") && !(x >= s["minimum"].get<double>())) &&
           !(s.contains("maximum") && !(x <= s["maximum"].get<double>())) &&
           !(s.contains("exclusiveMinimum") && !(x > s["exclusiveMinimum"].get<double>())) &&
           !(s.contains("exclusiveMaximum") && !(x < s["exclusiveMaximum"].get<double>()));
  }
  static bool is_number(const std::string& spelt, const Json& s, bool integer) {
    std::size_t at = 0;
    const auto digits = [&] {
      const std::size_t from = at;
      while (at < spelt.size() && std::isdigit(spelt[at]) != 0) ++at;
      return at - from;
    };
    if (at < spelt.size() && spelt[at] == '-') ++at;
    const bool zero = at < spelt.size() && spelt[at] == '0';
    const std::size_t whole = digits();
    if (whole == 0 || whole > 18 || (zero && whole > 1)) return false;
    if (at < spelt.size() && spelt[at] == '.') {
      ++at;
      const std::size_t fraction = digits();
      if (integer || fraction == 0 || fraction > (bounded(s) ? most_fraction(s) : 18)) return false;
    }
    if (at < spelt.size() && (spelt[at] == 'e' || spelt[at] == 'E')) {
      ++at;
      if (at < spelt.size() && (spelt[at] == '+' || spelt[at] == '-')) ++at;
      const std::size_t exponent = digits();
      if (integer || bounded(s) || exponent == 0 || exponent > 2) return false;
    }
    return at == spelt.size() && within(std::stod(spelt), s);
  }
  /// Tries what may come after a beginning. Bounds are small in the tests.
  static bool may_become(const std::string& spelt, const Json& s, bool integer) {
    for (const char* more :
         {"", "0", "1", "5", "9", "00", "10", "50", "99", ".5", ".1", ".01", "0.5"})
      if (is_number(spelt + more, s, integer)) return true;
    if (!bounded(s) || spelt.size() > 6) return false;
    for (int n = 0; n < 2000; ++n)
      for (const char* fraction : {"", ".5"})
        for (const char* sign : {"", "-"}) {
          const std::string whole = sign + std::to_string(n) + fraction;
          if (whole.starts_with(spelt) && is_number(whole, s, integer)) return true;
        }
    return false;
  }

  bool literal(const Json& v, std::size_t at, const Next& next) {
    if (!v.is_structured()) return word(v.dump(), at, next);
    return word(v.is_object() ? "{" : "[", at,
                [&](std::size_t in) { return literal_items(v, v.begin(), in, next); });
  }
  bool literal_items(const Json& v, Json::const_iterator it, std::size_t at, const Next& next) {
    const Next close = [&](std::size_t end) {
      return it == v.end() && word(v.is_object() ? "}" : "]", end, next);
    };
    if (it == v.end()) return space(at, close);
    const Next item = [&, it](std::size_t in) {
      const Next after = [&, it](std::size_t end) {
        return literal_items(v, std::next(it), end, next);
      };
      if (!v.is_object()) return literal(*it, in, after);
      return word(Json(it.key()).dump() + ":", in, [&, it](std::size_t end) {
        return space(end, [&, it](std::size_t start) { return literal(*it, start, after); });
      });
    };
    if (it == v.begin()) return space(at, item);
    return word(",", at, [&](std::size_t in) { return space(in, item); });
  }

  struct Member {
    std::string name;
    Json schema;
    bool required;
  };
  bool object(const Json& s, std::size_t at, const Next& next) {
    std::vector<Member> members;
    if (s.contains("properties"))
      for (const auto& [name, schema] : s["properties"].items())
        members.push_back({name, schema, false});
    Json others = s.contains("properties") ? Json(false) : Json(true);
    if (s.contains("additionalProperties")) others = s["additionalProperties"];
    if (s.contains("required"))
      for (const Json& name : s["required"])
        for (Member& m : members) m.required = m.required || m.name == name;
    return space(at, [&, members, others](std::size_t in) {
      return member(members, others, 0, true, in, next);
    });
  }
  /// What may stand from the i-th member on; `first`: none was there yet, and space was read.
  bool member(const std::vector<Member>& m, const Json& others, std::size_t i, bool first,
              std::size_t at, const Next& next) {
    bool may_close = true;
    for (std::size_t k = i; k < m.size(); ++k) may_close = may_close && !m[k].required;
    if (may_close) {
      const Next close = [&](std::size_t end) { return word("}", end, next); };
      if (first ? close(at) : space(at, close)) return true;
    }
    const auto names = [&](std::size_t in) { return name(m, others, i, in, next); };
    if (first) return names(at);
    if (i == m.size() && others == Json(false)) return false;
    return word(",", at, [&](std::size_t in) { return space(in, names); });
  }
  bool name(const std::vector<Member>& m, const Json& others, std::size_t i, std::size_t at,
            const Next& next) {
    const auto value_of = [&](const Json& schema, std::size_t then, std::size_t in) {
      return word(":", in, [&, then](std::size_t colon) {
        return space(colon, [&, then](std::size_t start) {
          return value(schema, start, [&, then](std::size_t end) {
            return member(m, others, then, false, end, next);
          });
        });
      });
    };
    for (std::size_t k = i; k < m.size(); ++k) {
      const bool found = word(Json(m[k].name).dump(), at,
                              [&](std::size_t in) { return value_of(m[k].schema, k + 1, in); });
      if (found) return true;
      if (m[k].required) return false;
    }
    if (others == Json(false)) return false;
    std::vector<std::string> taken;
    for (const Member& each : m) taken.push_back(each.name);
    return word("\"", at, [&](std::size_t in) {
      return string(0, 1 << 30, in, taken,
                    [&](std::size_t end) { return value_of(others, m.size(), end); });
    });
  }

  bool array(const Json& s, std::size_t at, const Next& next) {
    return space(at, [&](std::size_t in) { return item(s, 0, in, next); });
  }
  bool item(const Json& s, int i, std::size_t at, const Next& next) {
    const int prefix = s.contains("prefixItems") ? static_cast<int>(s["prefixItems"].size()) : 0;
    const int min = s.value("minItems", 0), max = s.value("maxItems", 1 << 30);
    const Next close = [&](std::size_t end) { return word("]", end, next); };
    if (i >= min && (i == 0 ? close(at) : space(at, close))) return true;
    const bool others = !s.contains("items") || s["items"] != Json(false);
    if (i >= max || (i >= prefix && !others)) return false;
    const Json schema = i < prefix            ? s["prefixItems"][static_cast<std::size_t>(i)]
                        : s.contains("items") ? s["items"]
                                              : Json(true);
    const Next one = [&, schema, i](std::size_t in) {
      return value(schema, in, [&, i](std::size_t end) { return item(s, i + 1, end, next); });
    };
    if (i == 0) return one(at);
    return word(",", at, [&](std::size_t in) { return space(in, one); });
  }

  Json root_;
  std::string text_;
  bool partial_ = false;
};

/// JSON Schema's own meaning, on parsed values: knows nothing of spelling or order.
inline bool is_valid(const Json& root, const Json& s, const Json& v) {
  if (s.is_boolean()) return s.get<bool>();
  if (s.contains("$ref")) {
    const std::string ref = s["$ref"];
    if (!is_valid(root, root.at(Json::json_pointer(ref.substr(1))), v)) return false;
  }
  for (const char* key : {"anyOf", "oneOf", "allOf"})
    if (s.contains(key) &&
        std::ranges::none_of(s[key], [&](const Json& each) { return is_valid(root, each, v); }))
      return false;
  const auto equal = [](const Json& a, const Json& b) {
    return nlohmann::json(a) == nlohmann::json(b);
  };
  if (s.contains("const") && !equal(s["const"], v)) return false;
  if (s.contains("enum") &&
      std::ranges::none_of(s["enum"], [&](const Json& each) { return equal(each, v); }))
    return false;
  if (s.contains("type")) {
    const auto is = [&](const std::string& t) {
      if (t == "integer") return v.is_number() && v.get<double>() == std::floor(v.get<double>());
      return (t == "object" && v.is_object()) || (t == "array" && v.is_array()) ||
             (t == "string" && v.is_string()) || (t == "number" && v.is_number()) ||
             (t == "boolean" && v.is_boolean()) || (t == "null" && v.is_null());
    };
    const Json types = s["type"].is_array() ? s["type"] : Json::array({s["type"]});
    if (std::ranges::none_of(types, [&](const Json& t) { return is(t); })) return false;
  }
  if (v.is_string()) {
    const std::string text = v;
    int characters = 0;
    for (const char c : text) characters += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    if (characters < s.value("minLength", 0) || characters > s.value("maxLength", 1 << 30))
      return false;
  }
  if (v.is_number()) {
    const auto x = v.get<double>();
    if (s.contains("minimum") && !(x >= s["minimum"].get<double>())) return false;
    if (s.contains("maximum") && !(x <= s["maximum"].get<double>())) return false;
    if (s.contains("exclusiveMinimum") && !(x > s["exclusiveMinimum"].get<double>())) return false;
    if (s.contains("exclusiveMaximum") && !(x < s["exclusiveMaximum"].get<double>())) return false;
  }
  if (v.is_array()) {
    const auto n = static_cast<int>(v.size());
    if (n < s.value("minItems", 0) || n > s.value("maxItems", 1 << 30)) return false;
    const std::size_t prefix = s.contains("prefixItems") ? s["prefixItems"].size() : 0;
    for (std::size_t i = 0; i < v.size(); ++i) {
      if (i < prefix && !is_valid(root, s["prefixItems"][i], v[i])) return false;
      if (i >= prefix && s.contains("items") && !is_valid(root, s["items"], v[i])) return false;
    }
  }
  if (!v.is_object()) return true;
  if (s.contains("required"))
    for (const Json& name : s["required"])
      if (!v.contains(name.get<std::string>())) return false;
  for (const auto& [name, member] : v.items()) {
    const bool known = s.contains("properties") && s["properties"].contains(name);
    if (known && !is_valid(root, s["properties"][name], member)) return false;
    if (!known && s.contains("additionalProperties") &&
        !is_valid(root, s["additionalProperties"], member))
      return false;
  }
  return true;
}

/// Schemas of every kind, at most `depth` deep.
class SchemaMaker {
 public:
  explicit SchemaMaker(std::uint32_t seed) : random_(seed) {}

  Json root() {
    Json s = schema(3);
    if (!s.is_object()) s = Json{{"anyOf", Json::array({s})}};
    s["$defs"] = {{"leaf", leaf()},
                  {"tree", Json::parse(R"({"type": "object", "properties": {"a": {"anyOf": [
                      {"$ref": "#/$defs/tree"}, {"type": "null"}]}, "list": {"type": "array",
                      "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}, "required": ["a"]})")}};
    return s;
  }
  int roll(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

 private:
  Json leaf() {
    switch (roll(0, 9)) {
      case 0: return {{"type", "string"}};
      case 1: {
        const int min = roll(0, 3);
        return {{"type", "string"}, {"minLength", min}, {"maxLength", min + roll(0, 3)}};
      }
      case 2: return {{"type", "integer"}};
      case 3: {
        const int low = roll(-120, 120);
        return {{"type", "integer"}, {"minimum", low}, {"maximum", low + roll(0, 150)}};
      }
      case 4: {
        const int low = roll(-12, 12);
        return {{"type", "number"},
                {roll(0, 1) == 0 ? "minimum" : "exclusiveMinimum", low},
                {roll(0, 1) == 0 ? "maximum" : "exclusiveMaximum", low + roll(1, 12)}};
      }
      case 5: return {{"type", "number"}};
      case 6: return {{"type", Json::array({"boolean", "null", "integer"})}};
      case 7:
        return {{"enum", Json::array({"a", "ab", "a\"\n", "gr\u00f6\u00dfe", 1, 12, -1.5, nullptr,
                                      Json::array({1, {{"x", "y"}}})})}};
      case 8: return {{"const", Json{{"a", Json::array({true, "b"})}}}};
      default: return true;
    }
  }
  Json object(int depth) {
    Json s = {{"type", "object"}};
    Json properties = Json::object(), required = Json::array();
    static const char* const kNames[] = {"a", "ab", "b", "name", "\u00e9", "a b"};
    for (const char* name : kNames) {
      if (roll(0, 2) > 0) continue;
      properties[name] = schema(depth - 1);
      if (roll(0, 1) == 0) required.push_back(name);
    }
    if (roll(0, 4) > 0) s["properties"] = properties;
    if (s.contains("properties") && roll(0, 2) > 0) s["required"] = required;
    if (roll(0, 2) == 0)
      s["additionalProperties"] = schema(depth - 1);
    else if (roll(0, 2) == 0)
      s["additionalProperties"] = false;
    return s;
  }
  Json array(int depth) {
    Json s = {{"type", "array"}};
    const int min = roll(0, 3);
    if (roll(0, 1) == 0) s["minItems"] = min;
    if (roll(0, 1) == 0) s["maxItems"] = min + roll(0, 2);
    if (roll(0, 2) > 0) s["items"] = schema(depth - 1);
    if (roll(0, 2) == 0) s["prefixItems"] = Json::array({schema(depth - 1), schema(depth - 1)});
    return s;
  }
  Json schema(int depth) {
    const int kind = depth <= 0 ? roll(6, 9) : roll(0, 9);
    if (kind <= 2) return object(depth);
    if (kind <= 4) return array(depth);
    if (kind == 5)
      return {{roll(0, 1) == 0 ? "anyOf" : "oneOf",
               Json::array({schema(depth - 1), schema(depth - 1), leaf()})}};
    if (kind == 6) return {{"$ref", roll(0, 1) == 0 ? "#/$defs/leaf" : "#/$defs/tree"}};
    return leaf();
  }

  std::mt19937 random_;
};

/// Texts that a schema's answers are made of, whole and cut at odd places, and every ASCII byte.
inline std::vector<std::string> small_vocabulary() {
  std::vector<std::string> texts = {""};
  for (int byte = 0; byte < 256; ++byte) texts.push_back(std::string(1, static_cast<char>(byte)));
  for (const char* text : {"{\"",
                           "\":",
                           "\": ",
                           "\", \"",
                           "\",\"",
                           "\"}",
                           "\"]",
                           "}]",
                           "]}",
                           "}}",
                           "},",
                           "], [",
                           "{}",
                           "[]",
                           "\"\"",
                           "[[",
                           "true",
                           "false",
                           "null",
                           "tru",
                           "ue",
                           ", ",
                           ": ",
                           " {",
                           "\n  ",
                           "\n",
                           "  ",
                           "\n\n",
                           "12",
                           "-1",
                           "0.",
                           ".5",
                           "e1",
                           "00",
                           "1,",
                           "12}",
                           "123456789",
                           "name",
                           "nam",
                           "\"a",
                           "\"a\"",
                           "\"ab\"",
                           "ab",
                           "b\"",
                           "\\\"",
                           "\\n",
                           "\\u",
                           "d8",
                           "\\ud83d\\ude00",
                           "\\udc00",
                           "\xc3\xb6",
                           "\xc3\xb6\xc3\x9f",
                           "\xf0\x9f\x98\x80",
                           "\xf0\x9f",
                           "\x98\x80",
                           "\xed\xa0",
                           "gr",
                           "e\"",
                           "a\": null",
                           "{\"a\":",
                           "list",
                           "\":[",
                           "\":{",
                           "nulll",
                           "null}",
                           "null,",
                           "x",
                           "zz zz"})
    texts.push_back(text);
  return texts;
}

}  // namespace herd::test
