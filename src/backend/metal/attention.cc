#include "backend/metal/metal.h"

namespace herd::metal {

void MetalBackend::attention(const AttentionArgs& a) {
  const auto layer = static_cast<std::size_t>(a.layer);
  const std::int32_t group = a.heads / kv_.kv_heads;
  const args::Attention shape = {static_cast<std::uint32_t>(kv_.kv_heads),
                                 static_cast<std::uint32_t>(group),
                                 static_cast<std::uint32_t>(kv_.head_size),
                                 static_cast<std::uint32_t>(kv_.page_size),
                                 a.scale,
                                 0};
  const std::string kernel = "paged_attention";
  const auto simdgroups =
      std::min<std::uint32_t>(static_cast<std::uint32_t>(group), args::kMaxSimdgroups);
  if (rows_ == 0) return;
  run(kernel,
      {a.q, keys_[layer].data, values_[layer].data, a.out, step_part(room_.positions()),
       step_part(room_.first_pages()), step_part(room_.block_table())},
      shape, {static_cast<std::uint32_t>(kv_.kv_heads), static_cast<std::uint32_t>(rows_)},
      threads_of(kernel, 32 * simdgroups));
  done("attention", a.out, rows_, std::int64_t{a.heads} * kv_.head_size, true);
}

}  // namespace herd::metal
