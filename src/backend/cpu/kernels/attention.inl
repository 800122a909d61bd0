// Causal attention of a tile of queries over paged keys and values; docs/numerics.md has the order.

/// One component of sixteen keys; those of 16 bits still want their scales.
template <KvType K>
INLINE F load_keys(const std::byte* base, std::int64_t index) {
  if constexpr (K == KvType::f16)
    return load_i16(base + index * 2);
  else
    return load(reinterpret_cast<const float*>(base) + index);
}
/// Sixteen components of one value.
template <KvType K>
INLINE F load_values(const std::byte* base, std::int64_t index) {
  if constexpr (K == KvType::f16)
    return load_half(base + index * 2);
  else
    return load(reinterpret_cast<const float*>(base) + index);
}

/// Bytes of one component of a key or value.
template <KvType K>
inline constexpr int kKvBytes = K == KvType::f16 ? 2 : 4;

/// Asks for N components from index `index`, which the next page is read at while this one is used.
template <KvType K, int N>
INLINE void prefetch_components(const std::byte* base, std::int64_t index) {
  constexpr int kBytes = N * kKvBytes<K>;
  unroll<(kBytes + 63) / 64>(
      [&](auto i) INLINE_LAMBDA { prefetch(base + index * kKvBytes<K> + i.value * 64); });
}

/// scores[r][j] = chain(d, fma(q[d], k_j[d])) * key scale * scale for B vectors of 16 keys from
/// offset j0 of each of P pages; `position` is that of the first. More keys side by side hide the
/// latency of the chains.
template <KvType K, int R, int B, int P>
INLINE void score_block(const AttentionTileArgs& a, const std::byte* const (&keys)[P],
                        const std::byte* const (&next)[P], std::int32_t j0, std::int64_t position) {
  F acc[R][P * B];
  unroll2<R, P * B>([&](auto r, auto b) INLINE_LAMBDA { acc[r.value][b.value] = zero(); });
  const float* q = a.q;
  for (std::int32_t d = 0; d < a.head_size; ++d, q += R) {
    F k[P * B];
    const std::int64_t at = std::int64_t{d} * a.page_size + j0;
    unroll2<P, B>([&](auto p, auto b) INLINE_LAMBDA {
      if constexpr (b.value == 0) prefetch_components<K, 16 * B>(next[p.value], at);
      k[p.value * B + b.value] = load_keys<K>(keys[p.value], at + b.value * 16);
    });
    unroll<R>([&](auto r) INLINE_LAMBDA {
      const F value = set1(q[r.value]);
      unroll<P * B>([&](auto b) INLINE_LAMBDA {
        acc[r.value][b.value] = fma(k[b.value], value, acc[r.value][b.value]);
      });
    });
  }
  const F scale = set1(a.scale);
  unroll<P>([&](auto p) INLINE_LAMBDA {
    const auto* key_scales =
        reinterpret_cast<const float*>(keys[p.value] + std::int64_t{2} * a.head_size * a.page_size);
    const std::int64_t first = position + std::int64_t{p.value} * a.page_size;
    unroll2<R, B>([&](auto r, auto b) INLINE_LAMBDA {
      F s = acc[r.value][p.value * B + b.value];
      if constexpr (K == KvType::f16) s = mul(s, load(key_scales + j0 + b.value * 16));
      store(a.scores + r.value * a.score_stride + first + b.value * 16, mul(s, scale));
    });
  });
}

/// Pages ahead that are asked for: memory takes about as long as the work on one or two of them.
inline constexpr std::int32_t kPagesAhead = 2;

INLINE std::int32_t page_count(const AttentionTileArgs& a) {
  return (a.max_keys + a.page_size - 1) / a.page_size;
}
/// Page `page` of the values, or the last.
INLINE const std::byte* values_at(const AttentionTileArgs& a, std::int32_t page) {
  const std::int32_t last = page_count(a) - 1;
  return a.values + a.pages[page < last ? page : last] * a.value_page_bytes;
}

/// Scores of P pages from page `page` on.
template <KvType K, int R, int B, int P>
INLINE void score_pages(const AttentionTileArgs& a, std::int32_t page, std::int32_t pages) {
  const std::byte *keys[P], *next[P];
  unroll<P>([&](auto p) INLINE_LAMBDA {
    const std::int32_t here = page + p.value, ahead = here + kPagesAhead;
    keys[p.value] = a.keys + a.pages[here] * a.key_page_bytes;
    next[p.value] = ahead < pages ? a.keys + a.pages[ahead] * a.key_page_bytes
                                  : values_at(a, ahead - pages);  // come after the keys
  });
  const std::int32_t first = page * a.page_size;
  for (std::int32_t j = 0; j < a.page_size && first + j < a.max_keys; j += 16 * B)
    score_block<K, R, B, P>(a, keys, next, j, first + j);
}

template <KvType K, int R>
INLINE void score_all(const AttentionTileArgs& a) {
  constexpr int B = 2 * R <= kAccumulators ? 2 : 1, P = 2 * B * R <= kAccumulators ? 2 : 1;
  const std::int32_t pages = page_count(a);
  std::int32_t page = 0;
  if (P > 1 && a.page_size == 16 * B)  // or some of the second page's scores might have no place
    for (; page + P <= pages; page += P) score_pages<K, R, B, P>(a, page, pages);
  for (; page < pages; ++page) score_pages<K, R, B, 1>(a, page, pages);
}

/// x = exp(x - max) for n values, +0 beyond up to a multiple of 32; returns their sum.
INLINE float exp_sum(float* x, float max, std::int32_t n) {
  const F m = set1(max);
  F sum = zero();
  std::int32_t j = 0;
  for (; j + 16 <= n; j += 16) {
    const F e = exp_f(sub(load(x + j), m));
    store(x + j, e);
    sum = add(sum, e);
  }
  if (j < n) {
    float lanes[16];
    store(lanes, exp_f(sub(load_part(x + j, n - j), m)));
    for (std::int32_t i = 0; i < 16; ++i) {
      if (j + i >= n)
        lanes[i] = 0.0f;
      else
        x[j + i] = lanes[i];
    }
    sum = add(sum, load(lanes));
  }
  return tree_sum(sum);
}

INLINE float max_of(const float* x, std::int32_t n) {
  float best = x[0];
  std::int32_t j = 0;
  if (n >= 16) {
    F m = load(x);
    for (j = 16; j + 16 <= n; j += 16) m = max(m, load(x + j));
    float lanes[16];
    store(lanes, m);
    for (float lane : lanes) best = lane > best ? lane : best;
  }
  for (; j < n; ++j) best = x[j] > best ? x[j] : best;
  return best + 0.0f;  // -0 and +0 are one
}

/// total[r][.] over keys in chunks, for D vectors of 16 values from offset d0.
template <KvType K, int R, int D>
INLINE void weigh_block(const AttentionTileArgs& a, std::int32_t d0, const float* sums) {
  float totals[R][D][16];  // in memory: the registers are for the chunk's accumulators
  for (std::int32_t chunk = 0; chunk < a.max_keys; chunk += kChunk) {
    F acc[R][D];
    unroll2<R, D>([&](auto r, auto d) INLINE_LAMBDA { acc[r.value][d.value] = zero(); });
    const std::int32_t end = a.max_keys < chunk + kChunk ? a.max_keys : chunk + kChunk;
    for (std::int32_t first = chunk; first < end; first += a.page_size) {
      const std::int32_t page = first / a.page_size;
      const std::byte* values = a.values + a.pages[page] * a.value_page_bytes;
      const std::byte* next = values_at(a, page + kPagesAhead);
      const std::int32_t n = end - first < a.page_size ? end - first : a.page_size;
      for (std::int32_t j = 0; j < n; ++j) {
        F v[D];
        const std::int64_t at = std::int64_t{j} * a.value_stride + d0;
        prefetch_components<K, 16 * D>(next, at);
        unroll<D>([&](auto d)
                      INLINE_LAMBDA { v[d.value] = load_values<K>(values, at + d.value * 16); });
        unroll<R>([&](auto r) INLINE_LAMBDA {
          const F e = set1(a.scores[r.value * a.score_stride + first + j]);
          unroll<D>([&](auto d) INLINE_LAMBDA {
            acc[r.value][d.value] = fma(v[d.value], e, acc[r.value][d.value]);
          });
        });
      }
    }
    unroll2<R, D>([&](auto r, auto d) INLINE_LAMBDA {
      float* total = totals[r.value][d.value];
      const F sum = acc[r.value][d.value];
      store(total, chunk == 0 ? sum : add(load(total), sum));
    });
  }
  for (int r = 0; r < R; ++r)
    for (int d = 0; d < D; ++d)
      store_part(a.out[r] + d0 + d * 16, div(load(totals[r][d]), set1(sums[r])),
                 a.head_size - d0 - d * 16);
}

/// All of the head from d0 on, widest blocks first: each pass over the keys reads D vectors.
template <KvType K, int R, int D = 4>
INLINE void weigh_all(const AttentionTileArgs& a, const float* sums, std::int32_t d0 = 0) {
  if constexpr (D == 1 || D * R <= kAccumulators)
    for (; d0 + 16 * D <= a.value_stride; d0 += 16 * D) weigh_block<K, R, D>(a, d0, sums);
  if constexpr (D > 1) weigh_all<K, R, D / 2>(a, sums, d0);
}

template <int R>
INLINE void score_tile(const AttentionTileArgs& a) {
  if (a.type == KvType::f16)
    score_all<KvType::f16, R>(a);
  else
    score_all<KvType::f32, R>(a);
  for (int r = 0; r < R; ++r) {
    float* scores = a.scores + r * a.score_stride;
    a.sums[r] = exp_sum(scores, max_of(scores, a.n_keys[r]), a.n_keys[r]);
    for (std::int32_t j = a.n_keys[r]; j < a.max_keys; ++j)
      scores[j] = 0.0f;  // later keys: no weight
  }
}

template <int R>
void attention(const AttentionTileArgs& a) {
  if (a.part != AttentionPart::values) score_tile<R>(a);
  if (a.part == AttentionPart::scores) return;
  if (a.type == KvType::f16)
    weigh_all<KvType::f16, R>(a, a.sums);
  else
    weigh_all<KvType::f32, R>(a, a.sums);
}
