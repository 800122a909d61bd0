// Matrix products over packed panels. Both kernels follow the contract of docs/numerics.md: one fma
// chain per output and chunk of 256 inputs, chunks added in order.

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

/// Asks for what stands `ahead` bytes after half `h` of a unit.
template <Type T>
INLINE void prefetch_half(const std::byte* unit, int h, std::int64_t ahead) {
  constexpr PanelFormat format = panel_format(T);
  constexpr int kBytes = static_cast<int>(format.unit_bytes()) / (format.unit / 16);
  unroll<(kBytes + 63) / 64>(
      [&](auto i) INLINE_LAMBDA { prefetch(unit + ahead + h * kBytes + i.value * 64); });
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

/// acc[g][r][c] += codes of half `h[g]` of the units of C panels times 16 inputs of R rows, in
/// order, for G neighbouring groups: `x` has the first one's inputs.
template <Type T, int R, int C, int G>
INLINE void fused_half(const FusedArgs& a, const std::byte* const (&units)[G][C], const int (&h)[G],
                       const float* x, F (&acc)[G][R][C]) {
  constexpr PanelFormat format = panel_format(T);
  constexpr int kPlanes = format.header_bytes, kSubBytes = format.sub_bytes;
  constexpr int kHalfBytes = static_cast<int>(format.unit_bytes()) / (format.unit / 16);
  unroll<2>([&](auto p) INLINE_LAMBDA {
    fetch<G * C * kHalfBytes / 2>(a.weights);
    Words words[G][C];
    unroll2<G, C>([&](auto g, auto c) INLINE_LAMBDA {
      const int half = h[g.value];
      words[g.value][c.value] = load_words<T, p.value>(
          units[g.value][c.value] + kPlanes + half / 2 * kSubBytes, half % 2);
    });
    unroll2<8, G>([&](auto j, auto g) INLINE_LAMBDA {
      constexpr int k = group_of(T) * g.value + 8 * p.value + j.value;
      F w[C];
      unroll<C>([&](auto c) INLINE_LAMBDA {
        w[c.value] = code<T, p.value, j.value>(words[g.value][c.value]);
      });
      unroll<R>([&](auto r) INLINE_LAMBDA {
        const F value = set1(x[input_at<R>(k, r.value, a.columns)]);
        unroll<C>([&](auto c) INLINE_LAMBDA {
          F& sum = acc[g.value][r.value][c.value];
          sum = fma(w[c.value], value, sum);
        });
      });
    });
  });
}

/// total[r][c] over G groups from input k on.
template <Type T, int R, int C, int G>
INLINE void fused_some(const FusedArgs& a, const std::byte* const* panels, std::int32_t k,
                       F (&total)[R][C]) {
  constexpr int kGroup = group_of(T), kUnit = panel_format(T).unit;
  const std::byte* units[G][C];
  int h[G];
  F acc[G][R][C];
  unroll<G>([&](auto g) INLINE_LAMBDA {
    const std::int32_t at = k + g.value * kGroup;
    h[g.value] = at % kUnit / 16;
    unroll<C>([&](auto c) INLINE_LAMBDA {
      units[g.value][c.value] = panels[c.value] + at / kUnit * unit_stride(T);
    });
    unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { acc[g.value][r.value][c.value] = zero(); });
  });
  if constexpr (R >= kFetchRows)
    if (k % kFetchInputs == 0) fetch<fetch_bytes(R * C)>(a.fetch);
  unroll<kGroup / 16>([&](auto i) INLINE_LAMBDA {
    int half[G];
    unroll<G>([&](auto g) INLINE_LAMBDA { half[g.value] = h[g.value] + i.value; });
    fused_half<T, R, C, G>(a, units, half, a.x + input_at<R>(k + 16 * i.value, 0, a.columns), acc);
  });
  unroll2<G, C>([&](auto g, auto c) INLINE_LAMBDA {
    const Scales s = load_scales<T>(units[g.value][c.value], h[g.value]);
    unroll<R>([&](auto r) INLINE_LAMBDA {
      F& sum = total[r.value][c.value];
      sum = fma(s.scale, acc[g.value][r.value][c.value], sum);
      if constexpr (has_min(T)) {
        const std::int64_t group = input_at<R>(k / kGroup + g.value, r.value, a.columns / kGroup);
        sum = fma(s.min, set1(a.sums[group]), sum);
      }
    });
  });
}

/// total[r][c] over all inputs of C panels of a type with groups. One row has few chains of fma:
/// two groups side by side hide more of their latency.
template <Type T, int R, int C>
INLINE void fused_groups(const FusedArgs& a, const std::byte* const* panels, F (&total)[R][C]) {
  constexpr int kGroup = group_of(T), kGroups = R == 1 ? kFusedGroups : 1;
  std::int32_t k = 0;
  if constexpr (kGroups > 1)
    for (; k + kGroups * kGroup <= a.columns; k += kGroups * kGroup)
      fused_some<T, R, C, kGroups>(a, panels, k, total);
  for (; k < a.columns; k += kGroup) fused_some<T, R, C, 1>(a, panels, k, total);
}

/// The same of a type without: chunks of kChunk inputs.
template <Type T, int R, int C>
INLINE void fused_plain(const FusedArgs& a, const std::byte* const* panels, F (&total)[R][C]) {
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
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { total[r.value][c.value] = zero(); });
  if constexpr (is_plain(T))
    fused_plain<T, R, C>(a, panels, total);
  else
    fused_groups<T, R, C>(a, panels, total);
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
  constexpr PanelFormat format = panel_format(T);
  if constexpr (is_plain(T)) {
    for (std::int32_t k = 0; k < n; ++k) store(to.codes[k], plain_weight<T>(panel, k0 + k));
    store(to.scales[0], set1(1.0f));
  } else {
    for (std::int32_t k = 0; k < n; k += 16) {
      const std::byte* unit = panel + (k0 + k) / format.unit * unit_stride(T);
      const int h = (k0 + k) % format.unit / 16;
      prefetch_half<T>(unit, h, kPrefetchBytes);
      if (k % group_of(T) == 0) {
        const Scales scales = load_scales<T>(unit, h);
        store(to.scales[k / group_of(T)], scales.scale);
        if constexpr (has_min(T)) store(to.mins[k / group_of(T)], scales.min);
      }
      const std::byte* planes = unit + format.header_bytes + h / 2 * format.sub_bytes;
      unroll<2>([&](auto p) INLINE_LAMBDA {
        const Words words = load_words<T, p.value>(planes, h % 2);
        unroll<8>([&](auto j) INLINE_LAMBDA {
          store(to.codes[k + 8 * p.value + j.value], code<T, p.value, j.value>(words));
        });
      });
    }
  }
}

/// Group `g` of a tile is summed: total = fma(scale, acc, total), and the min's part.
template <int R, int C>
INLINE void add_group(const TileArgs& a, std::int32_t g, const F (&acc)[R][C]) {
  unroll<C>([&](auto c) INLINE_LAMBDA {
    const F scale = load(a.panels[c.value].scales[g]);
    unroll<R>([&](auto r) INLINE_LAMBDA {
      float* total = a.total + (r.value * C + c.value) * 16;
      F sum = fma(scale, acc[r.value][c.value], load(total));
      if (a.sums != nullptr)
        sum = fma(load(a.panels[c.value].mins[g]), set1(a.sums[g * R + r.value]), sum);
      store(total, sum);
    });
  });
}

/// TileArgs: R rows times C panels.
template <int C, int R>
void tile(const TileArgs& a) {
  const float* x = a.x;
  for (std::int32_t k = 0, g = 0; k < a.n; ++g) {
    F acc[R][C];
    unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { acc[r.value][c.value] = zero(); });
    const std::int32_t end = a.n < k + a.group ? a.n : k + a.group;
    while (k < end) {
      if (k % kFetchInputs == 0) fetch<fetch_bytes(R * C)>(a.fetch);
      const std::int32_t stop = end < k + kFetchInputs ? end : k + kFetchInputs;
      for (; k < stop; ++k, x += R) {
        F v[C];
        unroll<C>([&](auto c) INLINE_LAMBDA { v[c.value] = load(a.panels[c.value].codes[k]); });
        unroll<R>([&](auto r) INLINE_LAMBDA {
          const F value = set1(x[r.value]);
          unroll<C>([&](auto c) INLINE_LAMBDA {
            acc[r.value][c.value] = fma(v[c.value], value, acc[r.value][c.value]);
          });
        });
      }
    }
    add_group<R, C>(a, g, acc);
  }
}
