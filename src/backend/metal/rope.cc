#include "backend/metal/metal.h"

namespace herd::metal {

void MetalBackend::rope_store(const RopeStoreArgs& a) {
  const bool stores = a.v != nullptr;
  const std::int32_t kv_heads = stores ? kv_.kv_heads : a.kv_heads;
  const std::int32_t size = stores ? kv_.head_size : a.head_size;
  const auto layer = static_cast<std::size_t>(a.layer);
  const auto flag = [](const void* p) { return p != nullptr ? 1u : 0u; };
  const args::Rope shape = {static_cast<std::uint32_t>(a.rows),
                            static_cast<std::uint32_t>(a.heads),
                            static_cast<std::uint32_t>(kv_heads),
                            static_cast<std::uint32_t>(size),
                            static_cast<std::uint32_t>(a.rope_size),
                            flag(a.q),
                            flag(a.k),
                            flag(a.v),
                            flag(a.q_out),
                            0};
  const std::int64_t heads =
      (a.q != nullptr ? a.heads : 0) + (a.k != nullptr ? kv_heads : 0) + (stores ? kv_heads : 0);
  run_elements(
      "rope_batch_f32",
      {a.q, a.k, a.v, a.q_out, a.table, step_part(room_.positions()), step_part(room_.slots()),
       stores ? keys_[layer].data : nullptr, stores ? values_[layer].data : nullptr},
      shape, a.rows * heads * ((size + 1) / 2));
  if (a.q != nullptr) done("rope_store", a.q, a.rows, a.heads * size, false);
}

}  // namespace herd::metal
