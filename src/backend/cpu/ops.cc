// The small ops: embedding, norms, rotation, KV writes, activations, and the unfused attention
// stages.
#include <cstring>

#include "backend/cpu/cpu.h"
#include "backend/cpu/for_each.h"

namespace herd::cpu {

void CpuBackend::embed(const EmbedArgs& args) {
  // Rows are read back from the packed panels, so the table is kept once even when it is also the
  // output matrix.
  const Matrix& m = matrix(args.table);
  for_each(args.rows, m.columns * 8, [&](std::int64_t i) {
    const TokenId id = batch_->ids[static_cast<std::size_t>(i)];
    float* out = args.out + i * m.columns;
    unpack_row(m.type, m.columns, m.panel(id / kPanelRows), id % kPanelRows, out);
    for (std::int32_t k = 0; k < m.columns; ++k) out[k] = out[k] + 0.0f;
  });
}

void CpuBackend::rms_norm(const RmsNormArgs& args) {
  if (args.for_next_matmul) {
    norm_ = args;
    return;
  }
  norm_rows(args);
}

void CpuBackend::norm_rows(const RmsNormArgs& args) {
  for_each(args.rows, args.columns, [&](std::int64_t row) {
    norm_row(args, row, static_cast<float*>(args.out) + row * args.columns);
  });
}

void CpuBackend::norm_row(const RmsNormArgs& args, std::int64_t row, float* out) const {
  const std::int64_t from =
      args.of_logit_rows ? batch_->logit_rows[static_cast<std::size_t>(row)] : row;
  table_.rms_norm({args.x + from * args.columns, args.weight, out, args.columns, args.epsilon});
}

void CpuBackend::rope_store(const RopeStoreArgs& args) {
  if (left_to_attention(args)) {
    rope_ = args;
    return;
  }
  // A row's queries, keys and values at once: what a product's threads wrote is fetched once.
  const std::int64_t q_size = std::int64_t{args.heads} * args.head_size;
  const std::int64_t kv_size = std::int64_t{args.kv_heads} * args.head_size;
  const std::int64_t cost = (args.q == nullptr ? 0 : q_size) + (args.k == nullptr ? 0 : kv_size) +
                            (args.v == nullptr ? 0 : 8 * kv_size);
  for_each(args.rows, cost, [&](std::int64_t row) {
    if (args.q != nullptr) rotate_heads(args.q + row * q_size, args.heads, row, args);
    if (args.k != nullptr) rotate_heads(args.k + row * kv_size, args.kv_heads, row, args);
    for (std::int32_t h = 0; args.v != nullptr && h < kv_.kv_heads; ++h) store_head(row, h, args);
  });
  if (args.q_out != nullptr && args.q_out != args.q)
    to_activations(args.q, args.q_out, std::int64_t{args.rows} * args.heads * args.head_size);
}

void CpuBackend::rotate_heads(float* x, std::int32_t heads, std::int64_t row,
                              const RopeStoreArgs& args) const {
  if (args.rope_size == 0) return;
  const std::int64_t position = batch_->positions[static_cast<std::size_t>(row)];
  for (std::int32_t head = 0; head < heads; ++head)
    table_.rope(x + std::int64_t{head} * args.head_size, args.table + position * args.rope_size,
                args.rope_size);
}

namespace {

/// Writes one head's key into column `offset` of its page, its value into row `offset`.
template <class T>
void write_head(const T* key, const T* value, std::byte* keys, std::byte* values,
                std::int32_t offset, const KvLayout& kv) {
  T* key_page = reinterpret_cast<T*>(keys);
  for (std::int32_t d = 0; d < kv.head_size; ++d)
    key_page[std::int64_t{d} * kv.page_size + offset] = key[d];
  std::memcpy(reinterpret_cast<T*>(values) + std::int64_t{offset} * kv.value_stride(), value,
              static_cast<std::size_t>(kv.head_size) * sizeof(T));
}

/// The 16-bit way: integer keys with their scale behind the page's keys, values as halves.
void write_head_16(const KernelTable& table, const float* k, const float* v, std::byte* keys,
                   std::byte* values, std::int32_t offset, const KvLayout& kv) {
  std::uint16_t key[kMaxHeadSize], value[kMaxHeadSize];
  const float scale = table.to_int16(k, key, kv.head_size);
  table.to_half(v, value, kv.head_size);
  write_head(key, value, keys, values, offset, kv);
  std::byte* scales = keys + std::int64_t{2} * kv.head_size * kv.page_size;
  std::memcpy(scales + std::int64_t{4} * offset, &scale, 4);
}

}  // namespace

void CpuBackend::store_head(std::int64_t row, std::int32_t head, const RopeStoreArgs& args) const {
  const std::int32_t slot = batch_->slots[static_cast<std::size_t>(row)];
  const std::int32_t page = slot / kv_.page_size, offset = slot % kv_.page_size;
  std::byte* keys = kv_.key_page(args.layer, page, head);
  std::byte* values = kv_.value_page(args.layer, page, head);
  const std::int64_t x = (row * kv_.kv_heads + head) * kv_.head_size;
  if (kv_.type == KvType::f32)
    write_head(args.k + x, args.v + x, keys, values, offset, kv_);
  else
    write_head_16(table_, args.k + x, args.v + x, keys, values, offset, kv_);
}

void CpuBackend::swiglu(const SwigluArgs& args) {
  constexpr std::int64_t kPiece = 2048;
  for_each((args.n + kPiece - 1) / kPiece, kPiece * 2, [&](std::int64_t i) {
    const std::int64_t at = i * kPiece, n = std::min(kPiece, args.n - at);
    table_.swiglu(args.gate + at, args.up + at, args.out + at, n);
  });
}

void CpuBackend::add(const AddArgs& args) {
  table_.add(args.a, args.b, args.out, args.n);
}

void CpuBackend::attention_scores(const AttentionScoresArgs& a) {
  const std::int64_t rows = std::int64_t{a.batch} * a.heads * a.queries;
  for_each(rows, std::int64_t{a.keys} * a.head_size, [&](std::int64_t row) {
    const std::int64_t b = row / (std::int64_t{a.heads} * a.queries);
    const std::int64_t h = row / a.queries % a.heads, i = row % a.queries;
    const float* q = a.q + ((b * a.queries + i) * a.heads + h) * a.head_size;
    const std::int64_t kv_head = h / (a.heads / a.kv_heads);
    for (std::int64_t j = 0; j < a.keys; ++j) {
      const float* k = a.k + ((b * a.keys + j) * a.kv_heads + kv_head) * a.head_size;
      const bool seen = j <= a.start[b] + i;
      a.scores[row * a.keys + j] =
          seen ? table_.dot(q, k, a.head_size, a.scale) : -__builtin_inff();
    }
  });
}

void CpuBackend::softmax_max(const SoftmaxArgs& a) {
  if (a.columns == 0) return;
  for_each(a.rows, a.columns, [&](std::int64_t row) {
    a.max[row] = table_.row_max(a.x + row * a.columns, a.columns);
  });
}

void CpuBackend::softmax_exp_sum(const SoftmaxArgs& a) {
  for_each(a.rows, a.columns * 4, [&](std::int64_t row) {
    a.sum[row] = table_.row_exp_sum(a.x + row * a.columns, a.max[row], a.columns);
  });
}

void CpuBackend::softmax_normalize(const SoftmaxArgs& a) {
  for_each(a.rows, a.columns, [&](std::int64_t row) {
    table_.row_divide(a.x + row * a.columns, a.sum[row], a.columns);
  });
}

void CpuBackend::apply_attention(const ApplyAttentionArgs& a) {
  const std::int64_t rows = std::int64_t{a.batch} * a.heads * a.queries;
  const std::int64_t v_stride = std::int64_t{a.kv_heads} * a.head_size;
  for_each(rows, std::int64_t{a.keys} * a.head_size, [&](std::int64_t row) {
    const std::int64_t b = row / (std::int64_t{a.heads} * a.queries);
    const std::int64_t h = row / a.queries % a.heads, i = row % a.queries;
    const std::int64_t kv_head = h / (a.heads / a.kv_heads);
    table_.weighted_sum(a.weights + row * a.keys,
                        a.v + b * a.keys * v_stride + kv_head * a.head_size, v_stride, a.keys,
                        a.head_size, a.out + ((b * a.queries + i) * a.heads + h) * a.head_size);
  });
}

}  // namespace herd::cpu
