#include "constrain/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <span>

#include "constrain/scalars.h"
#include "constrain/schema_text.h"

namespace herd::constrain {
namespace {

const std::vector<std::string> kTypes = {"object",  "array",   "string", "number",
                                         "integer", "boolean", "null"};
const std::set<std::string, std::less<>> kAnnotations = {
    "title",      "description", "default",   "examples", "$schema",    "$comment",
    "deprecated", "readOnly",    "writeOnly", "$defs",    "definitions"};
/// The type that each keyword says something about.
const std::map<std::string, std::string, std::less<>> kTyped = {{"properties", "object"},
                                                                {"required", "object"},
                                                                {"additionalProperties", "object"},
                                                                {"items", "array"},
                                                                {"prefixItems", "array"},
                                                                {"minItems", "array"},
                                                                {"maxItems", "array"},
                                                                {"uniqueItems", "array"},
                                                                {"minLength", "string"},
                                                                {"maxLength", "string"},
                                                                {"minimum", "number"},
                                                                {"maximum", "number"},
                                                                {"exclusiveMinimum", "number"},
                                                                {"exclusiveMaximum", "number"}};
const std::vector<std::string> kWholes = {"$ref", "anyOf", "oneOf", "allOf", "const", "enum"};
constexpr int kMostLinks = 64;  // $ref, anyOf and so on around a value
constexpr std::uint32_t kMostCount = 1u << 30;

bool has(const Json& schema, const char* key) {
  return schema.find(key) != schema.end();
}

/// One use of a schema: what it says and where that stands.
struct Place {
  const Json* schema;
  std::string path;
  int links = 0;

  Place at(const std::string& key, const Json& schema_there) const {
    return {&schema_there, longer(key), 0};
  }
  Place link(const std::string& key, const Json& schema_there) const {
    return {&schema_there, longer(key), links + 1};
  }
  /// Long names, once, must not be kept thousands of times.
  std::string longer(const std::string& key) const {
    constexpr std::size_t kLongest = 200;
    return path.size() > kLongest ? path : path + "/" + key.substr(0, kLongest);
  }
};

/// Adds states for one schema after another. The first error ends it; whatever is added after that
/// is thrown away.
class Compiler {
 public:
  Compiler(const Json& root, const Alphabet& alphabet) : root_(root), b_(alphabet) {}

  Result<Automaton> run() {
    const StateId start = b_.state(), accept = b_.state();
    b_.space(start, start);
    value({&root_, "#"}, start, accept);
    for (; !work_.empty() && !stopped(); work_.pop_front())
      if (work_.front().open == '{')
        object(work_.front().place, work_.front().start);
      else
        array(work_.front().place, work_.front().start);
    if (error_) return *error_;
    if (b_.full())
      return Error{Code::out_of_range, fmt::format("json_schema: more than {} states or {} edges",
                                                   Builder::kMostStates, Builder::kMostEdges)};
    Automaton a = b_.finish(start, accept);
    if (a.states[start].height == kNever)
      return Error{Code::invalid_argument,
                   "json_schema: no finite JSON text of this vocabulary satisfies it"};
    return a;
  }

 private:
  struct Body {
    Place place;
    char open;
    StateId start;
  };

  bool stopped() const { return error_.has_value() || b_.full(); }
  void fail(Code code, const Place& place, std::string_view what) {
    if (!error_) error_ = Error{code, fmt::format("json_schema: {}: {}", shown(place.path), what)};
  }
  void invalid(const Place& place, std::string_view what) {
    fail(Code::invalid_argument, place, what);
  }

  // ---- any value ----

  /// Adds what the schema allows between two states.
  void value(const Place& p, StateId from, StateId to) {
    if (stopped()) return;
    if (p.links > kMostLinks)
      return fail(Code::out_of_range, p,
                  fmt::format("more than {} references and alternatives around one value: does it "
                              "refer to itself?",
                              kMostLinks));
    if (p.schema->is_boolean()) {
      if (p.schema->get<bool>()) return value({&anything_, p.path, p.links}, from, to);
      return;  // nothing
    }
    if (!p.schema->is_object()) return invalid(p, "a schema is an object, true or false");
    const std::string whole = check_keywords(p);
    if (stopped()) return;
    const Json& s = *p.schema;
    if (whole == "$ref") return reference(p, from, to);
    if (whole == "anyOf" || whole == "oneOf" || whole == "allOf")
      return alternatives(p, whole, from, to);
    const std::vector<std::string> types = types_of(p);
    if (whole == "const") return literals(p, {&s["const"]}, types, from, to);
    if (whole == "enum") {
      if (!s["enum"].is_array()) return invalid(p, "enum must be a list");
      std::vector<const Json*> values;
      for (const Json& v : s["enum"]) values.push_back(&v);
      return literals(p, values, types, from, to);
    }
    for (const std::string& type : types) typed(p, type, from, to);
  }

  /// Refuses keywords that are unknown, or that stand beside one that says all. Returns that one.
  std::string check_keywords(const Place& p) {
    std::string whole;
    for (const std::string& key : kWholes)
      if (has(*p.schema, key.c_str()) && whole.empty()) whole = key;
    const bool literal = whole == "const" || whole == "enum";
    for (const auto& [key, unused] : p.schema->items()) {
      if (key == whole || kAnnotations.contains(key) || (key == "$id" && p.schema == &root_))
        continue;
      const bool known =
          kTyped.contains(key) || key == "type" || std::ranges::find(kWholes, key) != kWholes.end();
      if (!known) {
        fail(Code::unsupported, p, fmt::format("keyword \"{}\" is not supported", shown(key)));
        break;
      }
      if (whole.empty() || (literal && key == "type")) continue;
      fail(Code::unsupported, p, fmt::format("\"{}\" beside \"{}\" is not supported", key, whole));
      break;
    }
    return whole;
  }

  void reference(const Place& p, StateId from, StateId to) {
    const Json& ref = (*p.schema)["$ref"];
    if (!ref.is_string()) return invalid(p, "$ref must be a string");
    const auto& name = ref.get_ref<const std::string&>();
    const Json* target = resolve(root_, name);
    if (target == nullptr)
      return invalid(p, fmt::format("$ref \"{}\" leads nowhere in this schema", shown(name)));
    value({target, name.substr(0, 200), p.links + 1}, from, to);
  }

  void alternatives(const Place& p, const std::string& key, StateId from, StateId to) {
    const Json& list = (*p.schema)[key];
    if (!list.is_array() || list.empty()) return invalid(p, key + " must be a list, not empty");
    if (key == "allOf" && list.size() > 1)
      return fail(Code::unsupported, p, "allOf of more than one schema is not supported");
    for (std::size_t i = 0; i < list.size(); ++i)
      value(p.link(fmt::format("{}/{}", key, i), list[i]), from, to);
  }

  /// The types a value may have: as said, else those that the keywords are about, else all.
  std::vector<std::string> types_of(const Place& p) {
    std::set<std::string> types;
    const auto type = p.schema->find("type");
    if (type != p.schema->end()) {
      const Json list = type->is_array() ? *type : Json::array({*type});
      for (const Json& t : list) {
        const bool known =
            t.is_string() && std::ranges::find(kTypes, t.get<std::string>()) != kTypes.end();
        if (!known)
          invalid(p,
                  "type must be one or a list of: " + fmt::format("{}", fmt::join(kTypes, ", ")));
        if (known) types.insert(t.get<std::string>());
      }
    } else {
      for (const auto& [key, unused] : p.schema->items())
        if (const auto about = kTyped.find(key); about != kTyped.end()) types.insert(about->second);
      if (types.empty()) types.insert(kTypes.begin(), kTypes.end());
    }
    if (types.contains("number")) types.erase("integer");
    return {types.begin(), types.end()};
  }

  void typed(const Place& p, const std::string& type, StateId from, StateId to) {
    if (type == "null") return b_.text(from, "null", to);
    if (type == "boolean") {
      b_.text(from, "true", to);
      return b_.text(from, "false", to);
    }
    if (type == "string") return string(p, from, to);
    if (type == "object") return push(p, '{', from, to);
    if (type == "array") return push(p, '[', from, to);
    number(p, type == "integer", from, to);
  }

  // ---- scalars ----

  /// A bound on a number of things. Absent: `otherwise`.
  std::uint32_t count(const Place& p, const char* key, std::uint32_t otherwise) {
    const auto found = p.schema->find(key);
    if (found == p.schema->end()) return otherwise;
    const auto value = whole(*found);
    if (value && *value >= 0 && *value <= kMostCount) return static_cast<std::uint32_t>(*value);
    invalid(p, fmt::format("{} must be a whole number, 0 to {}", key, kMostCount));
    return otherwise;
  }

  void string(const Place& p, StateId from, StateId to) {
    const std::uint32_t min = count(p, "minLength", 0), max = count(p, "maxLength", kNoLimit);
    if (min > max) return;
    StateId& body = strings_.try_emplace({min, max}, kNoLimit).first->second;
    if (body == kNoLimit) {
      body = b_.state();
      add_any_string(b_, body, min, max);
    }
    b_.push(from, '"', body, to);
  }

  void number(const Place& p, bool integer, StateId from, StateId to) {
    NumberRange range;
    range.integer = integer;
    const auto bound = [&](const char* key, bool low) {
      const auto found = p.schema->find(key);
      if (found == p.schema->end()) return;
      const auto value = whole(*found);
      if (!found->is_number()) return invalid(p, fmt::format("{} must be a number", key));
      if (!value)
        return fail(Code::unsupported, p,
                    fmt::format("{} {} is not supported: only whole numbers of at most 18 digits",
                                key, shown(found->dump())));
      std::optional<std::int64_t>& limit = low ? range.low : range.high;
      bool& open = low ? range.low_open : range.high_open;
      const bool exclusive = key[0] == 'e';
      if (limit && (*limit == *value ? !exclusive : (*limit > *value) == low)) return;
      limit = *value;
      open = exclusive;
    };
    bound("minimum", true), bound("exclusiveMinimum", true);
    bound("maximum", false), bound("exclusiveMaximum", false);
    if (!stopped()) add_number(b_, from, to, range);
  }

  // ---- const and enum ----

  void literals(const Place& p, const std::vector<const Json*>& values,
                const std::vector<std::string>& types, StateId from, StateId to) {
    const bool typed = has(*p.schema, "type");
    std::vector<std::string> strings;
    for (const Json* v : values) {
      const auto fits = [&](const std::string& type) { return has_type(*v, type); };
      if (typed && std::ranges::none_of(types, fits)) continue;
      if (v->is_string())
        strings.push_back(*v);
      else
        literal(*v, from, to);
    }
    if (!strings.empty()) these(strings, from, to);
  }

  /// One of some strings, with its quotes.
  void these(std::span<const std::string> texts, StateId from, StateId to) {
    const StateId body = b_.state();
    b_.push(from, '"', body, to);
    add_these_strings(b_, body, texts);
  }
  void one(const std::string& text, StateId from, StateId to) { these({&text, 1}, from, to); }

  void literal(const Json& v, StateId from, StateId to) {
    if (stopped()) return;
    if (!v.is_structured()) return v.is_string() ? one(v, from, to) : b_.text(from, v.dump(), to);
    const bool object = v.is_object();
    const StateId start = b_.state();
    b_.push(from, object ? '{' : '[', start, to);
    b_.space(start, start);
    StateId at = start;
    for (const auto& [name, member] : v.items()) {
      StateId before = at;
      if (at != start) {
        before = b_.state();
        b_.edge(at, ',', before);
        b_.space(before, before);
      }
      if (object) before = member_start(name, before);
      at = b_.state();
      literal(member, before, at);
    }
    close(at, object ? '}' : ']');
  }

  // ---- objects ----

  /// `:` and white space after a name.
  StateId colon(StateId after_name) {
    const StateId before_value = b_.state();
    b_.edge(after_name, ':', before_value);
    b_.space(before_value, before_value);
    return before_value;
  }
  /// `"name":` from a state on; where its value begins.
  StateId member_start(const std::string& name, StateId from) {
    const StateId after = b_.state();
    one(name, from, after);
    return colon(after);
  }
  /// White space and the closing byte, or it alone.
  void close(StateId at, char byte, std::uint32_t min = 0, std::uint32_t max = kNoLimit) {
    const StateId end = b_.state();
    b_.space(at, end, min > 0 ? kWhole : kPlain);
    b_.space(end, end);
    b_.closes(end, byte);
    b_.closes(at, byte);
    b_.limit(at, min, max);
  }

  /// An object or array from one state to another, its inside shared by all its uses.
  void push(const Place& p, char open, StateId from, StateId to) {
    StateId& body = bodies_.try_emplace({p.schema, open}, kNoLimit).first->second;
    if (body == kNoLimit) {
      body = b_.state();
      work_.push_back({{p.schema, p.path}, open, body});
    }
    b_.push(from, open, body, to);
  }

  struct Member {
    std::string name;
    Place place;
    bool required = false;
  };
  struct Members {
    std::vector<Member> named;
    std::optional<Place> others;
  };

  Members members_of(const Place& p) {
    Members m;
    const Json& s = *p.schema;
    const auto properties = s.find("properties"), extra = s.find("additionalProperties"),
               required = s.find("required");
    if (extra != s.end()) {
      if (!extra->is_boolean() || extra->get<bool>())
        m.others = p.at("additionalProperties", *extra);
    } else if (properties == s.end()) {
      m.others = p.at("additionalProperties", anything_);
    }
    if (properties != s.end()) {
      if (!properties->is_object())
        invalid(p, "properties must be an object");
      else
        for (const auto& [name, schema] : properties->items())
          m.named.push_back({name, p.at("properties/" + name, schema)});
    }
    if (required != s.end()) require(p, *required, m);
    return m;
  }

  void require(const Place& p, const Json& names, Members& m) {
    if (!names.is_array()) return invalid(p, "required must be a list of names");
    std::map<std::string, std::size_t> index;
    for (std::size_t i = 0; i < m.named.size(); ++i) index[m.named[i].name] = i;
    for (const Json& name : names) {
      if (!name.is_string()) return invalid(p, "required must be a list of names");
      const auto& text = name.get_ref<const std::string&>();
      const auto [at, fresh] = index.try_emplace(text, m.named.size());
      if (fresh) {
        const bool refused = has(*p.schema, "additionalProperties") && !m.others;
        if (refused)
          return invalid(p, fmt::format("\"{}\" is required, but no property", shown(text)));
        m.named.push_back({text, m.others.value_or(p.at("required", anything_))});
      }
      m.named[at->second].required = true;
    }
  }

  /// The inside of an object: its members in order, those not required left out or not, then
  /// others.
  void object(const Place& p, StateId start) {
    const Members m = members_of(p);
    if (stopped()) return;
    const std::size_t n = m.named.size();
    // before[i]: where the name of the i-th member or a later one stands; before[n]: of another.
    std::vector<StateId> before;
    for (std::size_t i = 0; i <= n; ++i) before.push_back(b_.state());
    b_.space(start, start);
    b_.silent(start, before[0]);
    std::size_t free_from = n;  // from here on nothing is required
    while (free_from > 0 && !m.named[free_from - 1].required) --free_from;
    if (free_from == 0) b_.closes(start, '}');
    for (std::size_t i = 0; i < n && !stopped(); ++i) {
      const StateId after = b_.state();
      value(m.named[i].place, member_start(m.named[i].name, before[i]), after);
      if (!m.named[i].required) b_.silent(before[i], before[i + 1]);
      after_member(after, before[i + 1], i + 1 >= free_from, i + 1 < n || m.others);
    }
    if (m.others && !stopped()) other_members(m, before[n]);
  }

  void after_member(StateId after, StateId next, bool may_close, bool may_go_on) {
    if (may_close) close(after, '}');
    if (!may_go_on) return;
    const StateId comma = b_.state();
    b_.edge(after, ',', comma);
    b_.space(comma, comma);
    b_.silent(comma, next);
  }

  void other_members(const Members& m, StateId from) {
    const StateId name = b_.state(), after_name = b_.state(), after = b_.state();
    std::vector<std::string> taken;
    for (const Member& member : m.named) taken.push_back(member.name);
    if (taken.empty())
      add_any_string(b_, name, 0, kNoLimit);
    else
      add_other_string(b_, name, taken);
    b_.push(from, '"', name, after_name);
    value(*m.others, colon(after_name), after);
    after_member(after, from, true, true);
  }

  // ---- arrays ----

  struct Items {
    std::vector<Place> first;     // one each
    std::optional<Place> others;  // all after them
    std::uint32_t min = 0, max = kNoLimit;
  };

  Items items_of(const Place& p) {
    Items all;
    const Json& s = *p.schema;
    if (const auto prefix = s.find("prefixItems"); prefix != s.end()) {
      if (!prefix->is_array()) invalid(p, "prefixItems must be a list");
      for (std::size_t i = 0; prefix->is_array() && i < prefix->size(); ++i)
        all.first.push_back(p.at(fmt::format("prefixItems/{}", i), (*prefix)[i]));
    }
    const auto items = s.find("items");
    if (items != s.end() && items->is_array())
      fail(Code::unsupported, p, "a list as \"items\" is not supported: use prefixItems");
    if (items == s.end())
      all.others = p.at("items", anything_);
    else if (!items->is_boolean() || items->get<bool>())
      all.others = p.at("items", *items);
    if (s.value("uniqueItems", Json(false)) != Json(false))
      fail(Code::unsupported, p, "keyword \"uniqueItems\" is not supported");
    all.min = count(p, "minItems", 0);
    all.max = count(p, "maxItems", kNoLimit);
    if (!all.others) all.max = std::min(all.max, static_cast<std::uint32_t>(all.first.size()));
    return all;
  }

  /// The inside of an array. What is open counts its commas.
  void array(const Place& p, StateId start) {
    const Items all = items_of(p);
    if (stopped() || all.min > all.max) return;
    const auto n = static_cast<std::uint32_t>(all.first.size());
    b_.space(start, start);
    if (all.min == 0) b_.closes(start, ']');
    StateId before = start;
    const auto comma = [&](StateId after, StateId next) {
      b_.edge(after, ',', next, all.min > 0 || all.max < kNoLimit ? kCounts : kPlain);
    };
    for (std::uint32_t i = 0; i < n && i < all.max && !stopped(); ++i) {
      const StateId after = b_.state(), next = b_.state();
      value(all.first[i], before, after);
      if (i + 1 >= all.min) close(after, ']');
      if (i + 1 < all.max) comma(after, next);
      b_.space(next, next);
      before = next;
    }
    if (!all.others || all.max <= n || stopped()) return;
    const StateId after = b_.state(), next = b_.state();
    value(*all.others, before, after);
    value(*all.others, next, after);
    close(after, ']', all.min > 0 ? all.min - 1 : 0, all.max < kNoLimit ? all.max - 1 : kNoLimit);
    comma(after, next);
    b_.space(next, next);
  }

  const Json& root_;
  const Json anything_ = Json::object();
  Builder b_;
  std::deque<Body> work_;
  std::map<std::pair<const Json*, char>, StateId> bodies_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, StateId> strings_;
  std::optional<Error> error_;
};

}  // namespace

Result<Automaton> compile_schema(std::string_view schema, const Alphabet& alphabet) {
  const auto json = read_schema(schema);
  if (!json.ok()) return json.error();
  return Compiler(*json, alphabet).run();
}

}  // namespace herd::constrain
