#include "chat/scopes.h"

#include <map>
#include <set>
#include <string>

namespace herd::chat {
namespace {

using Kind = Statement::Kind;

/// How a scope comes by a name (jinja2.idtracking has the same, under other names).
enum class Origin { parameter, variable, outer, unset };

/// The names of one scope, or of one branch of an `if` inside it (`base`: what held before).
class Names {
 public:
  explicit Names(const Names* parent, const Names* base = nullptr) : parent_(parent), base_(base) {}
  Names branch() const { return Names(parent_, this); }

  bool knows(const std::string& name) const { return known_here(name) || outer_knows(name); }
  void load(const std::string& name) {
    if (!knows(name)) known_[name] = Origin::variable;
  }
  void store(const std::string& name) {
    stored_.insert(name);
    if (!known_here(name)) known_[name] = outer_knows(name) ? Origin::outer : Origin::unset;
  }
  void declare(const std::string& name) {
    stored_.insert(name);
    known_[name] = Origin::parameter;
  }
  /// Takes over what branches did: what only they set keeps its outer value until then.
  void merge(const std::vector<Names>& branches) {
    std::set<std::string> fresh;
    for (const Names& branch : branches)
      for (const std::string& name : branch.stored_)
        if (!stored_here(name)) fresh.insert(name);
    for (const Names& branch : branches) {
      for (const auto& [name, origin] : branch.known_) known_[name] = origin;
      stored_.insert(branch.stored_.begin(), branch.stored_.end());
    }
    for (const std::string& name : fresh)
      known_[name] = outer_knows(name) ? Origin::outer : Origin::variable;
  }
  std::vector<std::string> unset() const {
    std::vector<std::string> out;
    for (const auto& [name, origin] : known_)
      if (origin == Origin::unset) out.push_back(name);
    return out;
  }

 private:
  bool outer_knows(const std::string& name) const {
    return parent_ != nullptr && parent_->knows(name);
  }
  bool known_here(const std::string& name) const {
    return known_.contains(name) || (base_ != nullptr && base_->known_here(name));
  }
  bool stored_here(const std::string& name) const {
    return stored_.contains(name) || (base_ != nullptr && base_->stored_here(name));
  }
  const Names *parent_, *base_;
  std::map<std::string, Origin> known_;
  std::set<std::string> stored_;
};

void read(Names& names, const ExpressionPtr& e) {
  if (!e) return;
  if (e->kind == Expression::Kind::name) names.load(e->name);
  for (const auto& operand : e->operands) read(names, operand);
  for (const auto& argument : e->arguments.positional) read(names, argument);
  for (const auto& [name, argument] : e->arguments.named) read(names, argument);
  read(names, e->arguments.star);
  read(names, e->arguments.star_star);
}

void write(Names& names, const Target& target, bool parameter) {
  if (target.kind == Target::Kind::attribute) names.load(target.name);
  if (target.kind == Target::Kind::name) {
    if (parameter)
      names.declare(target.name);
    else
      names.store(target.name);
  }
  for (const Target& part : target.parts) write(names, part, parameter);
}

void scan(Names& names, const Body& body);

/// Every elif is an `if` of its own, all of them together one branch.
void scan_condition(Names& names, const Statement& s) {
  read(names, s.branches[0].test);
  std::vector<Names> branches(3, names.branch());
  scan(branches[0], s.branches[0].body);
  for (std::size_t i = 1; i < s.branches.size(); ++i) {
    read(branches[1], s.branches[i].test);
    std::vector<Names> inside(1, branches[1].branch());
    scan(inside[0], s.branches[i].body);
    branches[1].merge(inside);
  }
  scan(branches[2], s.otherwise);
  names.merge(branches);
}

/// What the statements of one scope do to its names; not those of the scopes inside.
void scan(Names& names, const Body& body) {
  for (const auto& s : body) {
    switch (s->kind) {
      case Kind::output:
      case Kind::loop:
      case Kind::call_block: read(names, s->expression); break;
      case Kind::set:
        read(names, s->expression);
        write(names, s->target, false);
        break;
      case Kind::set_block: write(names, s->target, false); break;
      case Kind::macro: names.store(s->name); break;
      case Kind::filter_block: read(names, s->filter); break;
      case Kind::with:
        for (const auto& [target, value] : s->bindings) read(names, value);
        break;
      case Kind::condition: scan_condition(names, *s); break;
      default: break;
    }
  }
}

void enter(const Names& names, Body& body);

/// The scope inside `s`: its parameters, then its body.
void enter_scope(const Names& outer, Statement& s) {
  Names names(&outer);
  if (s.kind == Kind::loop) {
    names.declare("loop");
    write(names, s.target, true);
  }
  for (const Parameter& parameter : s.parameters) names.declare(parameter.name);
  for (const Parameter& parameter : s.parameters) read(names, parameter.fallback);
  for (const auto& [target, value] : s.bindings) write(names, target, true);
  if (s.uses_caller) names.declare("caller");
  if (s.uses_kwargs) names.declare("kwargs");
  if (s.uses_varargs) names.declare("varargs");
  scan(names, s.body);
  if (s.kind == Kind::filter_block) read(names, s.filter);
  s.unset = names.unset();
  enter(names, s.body);
  if (s.kind != Kind::loop) return;
  Names otherwise(&outer);
  scan(otherwise, s.otherwise);
  s.unset_otherwise = otherwise.unset();
  enter(otherwise, s.otherwise);
}

void enter(const Names& names, Body& body) {
  for (const auto& s : body) {
    if (s->kind == Kind::condition) {
      for (Branch& branch : s->branches) enter(names, branch.body);
      enter(names, s->otherwise);
    } else if (!s->body.empty() || !s->otherwise.empty()) {
      enter_scope(names, *s);
    }
  }
}

}  // namespace

void find_unset_names(Program& program) {
  Names names(nullptr);
  scan(names, program.body);
  program.unset = names.unset();
  enter(names, program.body);
}

}  // namespace herd::chat
