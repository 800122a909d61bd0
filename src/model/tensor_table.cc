// Names and shapes of a Llama's tensors: nothing else in herd knows them.
#include <fmt/format.h>

#include "model/model.h"

namespace herd {

std::vector<TensorSpec> tensor_table(const ModelConfig& c) {
  const std::int64_t q_rows = std::int64_t{c.heads} * c.head_size;
  const std::int64_t kv_rows = std::int64_t{c.kv_heads} * c.head_size;
  std::vector<TensorSpec> table;
  const auto vector = [&](std::string name, std::int64_t n, bool optional = false) {
    table.push_back({std::move(name), 1, n, optional, false, {}});
  };
  const auto matrix = [&](std::string name, std::int64_t rows, std::int64_t columns,
                          bool optional = false) {
    table.push_back({std::move(name), rows, columns, optional, true, MatrixUse::product});
  };
  matrix("token_embd.weight", c.vocab, c.hidden);
  table.back().use = c.tied_output ? MatrixUse::both : MatrixUse::lookup;
  vector("rope_freqs.weight", c.rope_size / 2, true);
  for (std::int32_t i = 0; i < c.layers; ++i) {
    const std::string block = fmt::format("blk.{}.", i);
    vector(block + "attn_norm.weight", c.hidden);
    matrix(block + "attn_q.weight", q_rows, c.hidden);
    matrix(block + "attn_k.weight", kv_rows, c.hidden);
    matrix(block + "attn_v.weight", kv_rows, c.hidden);
    matrix(block + "attn_output.weight", c.hidden, q_rows);
    vector(block + "ffn_norm.weight", c.hidden);
    matrix(block + "ffn_gate.weight", c.feed_forward, c.hidden);
    matrix(block + "ffn_up.weight", c.feed_forward, c.hidden);
    matrix(block + "ffn_down.weight", c.hidden, c.feed_forward);
  }
  vector("output_norm.weight", c.hidden);
  matrix("output.weight", c.vocab, c.hidden, true);
  return table;
}

}  // namespace herd
