// Matrix products over packed panels of values: one fma chain per output and chunk of 256 inputs,
// chunks added in order (docs/numerics.md). Products with codes are in coded.inl.

/// out[n0 .. n0+15] = or += y, without writing past the last output.
INLINE void store_outputs(float* out, std::int32_t n0, std::int32_t outputs, F y, bool add_to) {
  if (n0 + 16 <= outputs) {
    store(out + n0, add_to ? add(load(out + n0), y) : y);
    return;
  }
  float lanes[16];
  store(lanes, y);
  for (std::int32_t i = 0; n0 + i < outputs; ++i)  // none at all in a padding panel
    out[n0 + i] = add_to ? out[n0 + i] + lanes[i] : lanes[i];
}

/// Where input k of row r stands, of R rows with `columns` inputs: see FusedArgs.
template <int R>
INLINE std::int64_t input_at(std::int64_t k, std::int64_t r, std::int64_t columns) {
  return R >= kPackedFused ? k * R + r : r * columns + k;
}

/// Inputs after which keys and values are asked for, and how many bytes for a panel and row: what
/// 16 rows of one panel take to compute hides the reading of about 12 lines (docs/performance.md).
inline constexpr std::int32_t kFetchInputs = 32;
constexpr int fetch_bytes(int rows_and_panels) {
  return (rows_and_panels * 12 + 15) / 16 * 64;
}
/// The next Bytes of what will be read soon.
template <int Bytes>
INLINE void fetch(Fetch* f) {
  if (f == nullptr || !goes_on(*f)) return;
  const std::byte* at = f->at;
  unroll<(Bytes + 63) / 64>([&](auto i) INLINE_LAMBDA { prefetch(at + i.value * 64); });
  f->at = at + Bytes;
}

/// total[r][c] over all inputs of C panels, in chunks of kChunk.
template <Type T, int R, int C>
INLINE void fused_chunks(const FusedArgs& a, const std::byte* const* panels, F (&total)[R][C]) {
  constexpr int kPlainInputs = 4, kBytes = 16 * (T == Type::F32 ? 4 : 2);
  for (std::int32_t k0 = 0; k0 < a.columns; k0 += kChunk) {
    const std::int32_t end = a.columns < k0 + kChunk ? a.columns : k0 + kChunk;
    F acc[R][C];
    unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { acc[r.value][c.value] = zero(); });
    for (std::int32_t k = k0; k < end; ++k) {
      if constexpr (R >= kFetchRows)
        if (k % kFetchInputs == 0) fetch<fetch_bytes(R * C)>(a.fetch);
      if (k % kPlainInputs == 0) fetch<C * kPlainInputs * kBytes>(a.weights);
      F w[C];
      unroll<C>([&](auto c) INLINE_LAMBDA { w[c.value] = plain_weight<T>(panels[c.value], k); });
      unroll<R>([&](auto r) INLINE_LAMBDA {
        const F value = set1(a.x[input_at<R>(k, r.value, a.columns)]);
        unroll<C>([&](auto c) INLINE_LAMBDA {
          acc[r.value][c.value] = fma(w[c.value], value, acc[r.value][c.value]);
        });
      });
    }
    unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
      total[r.value][c.value] = add(total[r.value][c.value], acc[r.value][c.value]);
    });
  }
}

/// C panels of a pair from `panel` on, all inputs, R rows.
template <Type T, int R, int C>
void fused_panels(const FusedArgs& a, std::int32_t panel) {
  const std::byte* panels[C];
  unroll<C>([&](auto c) INLINE_LAMBDA {
    panels[c.value] = panel_at(a.panels, T, a.panel_bytes, panel + c.value);
  });
  F total[R][C];
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
    total[r.value][c.value] = zero();
    ask_to_write(a.out + std::int64_t{r.value} * a.outputs + (panel + c.value) * 16, 64);
  });
  fused_chunks<T, R, C>(a, panels, total);
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
    store_outputs(a.out + std::int64_t{r.value} * a.outputs, (panel + c.value) * 16, a.outputs,
                  total[r.value][c.value], a.add);
  });
}

/// FusedArgs for R rows: the panels of a pair side by side where registers last. More than a pair
/// would multiply faster from a cache, but be several runs of memory: docs/performance.md.
template <Type T, int R>
void fused(const FusedArgs& a) {
  constexpr int C = kPairPanels * R <= kAccumulators ? kPairPanels : 1;
  for (std::int32_t i = 0; i < a.n_panels; i += C) fused_panels<T, R, C>(a, a.first_panel + i);
}

/// UnpackFn: see table.h.
template <Type T>
void unpack(const std::byte* panel, std::int32_t k0, std::int32_t n, UnpackedPanel& to) {
  for (std::int32_t k = 0; k < n; ++k) store(to.values[k], plain_weight<T>(panel, k0 + k));
}

/// TileArgs: R rows times C panels.
template <int C, int R>
void tile(const TileArgs& a) {
  const float* x = a.x;
  F acc[R][C];
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { acc[r.value][c.value] = zero(); });
  for (std::int32_t k = 0; k < a.n;) {
    fetch<fetch_bytes(R * C)>(a.fetch);
    const std::int32_t stop = a.n < k + kFetchInputs ? a.n : k + kFetchInputs;
    for (; k < stop; ++k, x += R) {
      F v[C];
      unroll<C>([&](auto c) INLINE_LAMBDA { v[c.value] = load(a.panels[c.value].values[k]); });
      unroll<R>([&](auto r) INLINE_LAMBDA {
        const F value = set1(x[r.value]);
        unroll<C>([&](auto c) INLINE_LAMBDA {
          acc[r.value][c.value] = fma(v[c.value], value, acc[r.value][c.value]);
        });
      });
    }
  }
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
    float* total = a.total + (r.value * C + c.value) * 16;
    store(total, add(load(total), acc[r.value][c.value]));
  });
}
