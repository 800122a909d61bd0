#include "constrain/grammars.h"

#include <fmt/format.h>

#include <algorithm>

#include "constrain/schema.h"

namespace herd::constrain {

Result<std::shared_ptr<Grammar>> Grammars::get(const std::string& schema) {
  if (auto known = find(schema)) return known;
  auto automaton = compile_schema(schema, vocabulary_->alphabet());
  if (!automaton.ok()) return automaton.error();
  auto grammar = std::make_shared<Grammar>(*std::move(automaton), vocabulary_);
  const std::lock_guard lock(mutex_);
  kept_.push_front({schema, grammar});
  evict();
  alive_.push_back(grammar);
  if (alive_bytes() <= kMostAlive) return grammar;
  kept_.clear();
  return Error{
      Code::resource_exhausted,
      fmt::format("json_schema: the schemas of waiting and running requests need more than "
                  "{} bytes",
                  kMostAlive)};
}

std::shared_ptr<Grammar> Grammars::find(const std::string& schema) {
  const std::lock_guard lock(mutex_);
  const auto at = std::ranges::find(kept_, schema, &Kept::schema);
  if (at == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, at);
  return kept_.front().grammar;
}

void Grammars::evict() {
  std::size_t bytes = 0, count = 0;
  for (auto it = kept_.begin(); it != kept_.end(); ++it, ++count) {
    bytes += it->schema.size() + it->grammar->bytes();
    if ((bytes <= kMostBytes && count < kMostKept) || it == kept_.begin()) continue;
    kept_.erase(it, kept_.end());
    return;
  }
}

std::size_t Grammars::alive_bytes() {
  std::size_t bytes = 0;
  std::erase_if(alive_, [&](const std::weak_ptr<Grammar>& weak) {
    const auto grammar = weak.lock();
    if (grammar != nullptr) bytes += grammar->bytes();
    return grammar == nullptr;
  });
  return bytes;
}

}  // namespace herd::constrain
