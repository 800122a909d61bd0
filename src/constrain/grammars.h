// The grammars of one model: compiled once for each schema, by any thread.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "constrain/grammar.h"

namespace herd::constrain {

/// Thread-safe.
class Grammars {
 public:
  /// Bytes of grammars kept for schemas that may come again.
  static constexpr std::size_t kMostBytes = 64u << 20;
  static constexpr std::size_t kMostKept = 32;
  /// Bytes of all grammars, those that only answers hold included.
  static constexpr std::size_t kMostAlive = 512u << 20;

  explicit Grammars(std::shared_ptr<const TokenTrie> vocabulary)
      : vocabulary_(std::move(vocabulary)) {}

  /// The grammar of a schema. Compiles in the calling thread. Errors: compile_schema's;
  /// resource_exhausted beyond kMostAlive.
  Result<std::shared_ptr<Grammar>> get(const std::string& schema);

 private:
  struct Kept {
    std::string schema;
    std::shared_ptr<Grammar> grammar;
  };
  std::shared_ptr<Grammar> find(const std::string& schema);
  void evict();
  std::size_t alive_bytes();

  std::shared_ptr<const TokenTrie> vocabulary_;
  std::mutex mutex_;
  std::list<Kept> kept_;  // the latest first
  std::vector<std::weak_ptr<Grammar>> alive_;
};

}  // namespace herd::constrain
