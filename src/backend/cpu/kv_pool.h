// Where keys and values stand: by layer, then head, then page, so that a head's pages are one run
// of memory (docs/performance.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace herd::cpu {

struct KvPool : KvLayout {
  std::byte *keys = nullptr, *values = nullptr;

  /// Of one head, page_size positions.
  std::int64_t key_page_bytes() const { return key_bytes() * page_size; }
  std::int64_t value_page_bytes() const { return value_bytes() * page_size; }
  std::byte* key_page(std::int32_t layer, std::int32_t page, std::int32_t head) const {
    return keys + head_page(layer, page, head) * key_page_bytes();
  }
  std::byte* value_page(std::int32_t layer, std::int32_t page, std::int32_t head) const {
    return values + head_page(layer, page, head) * value_page_bytes();
  }

 private:
  std::int64_t head_page(std::int32_t layer, std::int32_t page, std::int32_t head) const {
    return (std::int64_t{layer} * kv_heads + head) * pages + page;
  }
};

}  // namespace herd::cpu
