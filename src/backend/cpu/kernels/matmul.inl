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

/// acc[r][c] += codes of half `h` of the units of C panels times 16 inputs of R rows, in order.
template <Type T, int R, int C>
INLINE void fused_half(const std::byte* const* units, int h, const float* x, std::int64_t columns,
                       F (&acc)[R][C]) {
  constexpr int kPlanes = panel_format(T).header_bytes, kSubBytes = panel_format(T).sub_bytes;
  unroll<2>([&](auto p) INLINE_LAMBDA {
    Words words[C];
    unroll<C>([&](auto c) INLINE_LAMBDA {
      words[c.value] = load_words<T, p.value>(units[c.value] + kPlanes + h / 2 * kSubBytes, h % 2);
    });
    unroll<8>([&](auto j) INLINE_LAMBDA {
      F w[C];
      unroll<C>([&](auto c)
                    INLINE_LAMBDA { w[c.value] = code<T, p.value, j.value>(words[c.value]); });
      unroll<R>([&](auto r) INLINE_LAMBDA {
        const F value = set1(x[input_at<R>(8 * p.value + j.value, r.value, columns)]);
        unroll<C>([&](auto c) INLINE_LAMBDA {
          acc[r.value][c.value] = fma(w[c.value], value, acc[r.value][c.value]);
        });
      });
    });
  });
}

/// total[r][c] over all inputs of C panels of a type with groups.
template <Type T, int R, int C>
INLINE void fused_groups(const FusedArgs& a, const std::byte* const* panels, F (&total)[R][C]) {
  constexpr PanelFormat format = panel_format(T);
  constexpr int kGroup = group_of(T);
  constexpr int kHalfBytes = static_cast<int>(format.unit_bytes()) / (format.unit / 16);
  for (std::int32_t k = 0; k < a.columns; k += kGroup) {
    const std::byte* units[C];
    const std::int64_t at = k / format.unit * unit_stride(T);
    unroll<C>([&](auto c) INLINE_LAMBDA { units[c.value] = panels[c.value] + at; });
    const int h = k % format.unit / 16;
    F acc[R][C];
    unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { acc[r.value][c.value] = zero(); });
    if constexpr (R >= kFetchRows)
      if (k % kFetchInputs == 0) fetch<fetch_bytes(R * C)>(a.fetch);
    unroll<kGroup / 16>([&](auto i) INLINE_LAMBDA {
      fetch<C * kHalfBytes>(a.weights);
      fused_half<T, R, C>(units, h + i.value, a.x + input_at<R>(k + 16 * i.value, 0, a.columns),
                          a.columns, acc);
    });
    unroll<C>([&](auto c) INLINE_LAMBDA {
      const Scales s = load_scales<T>(units[c.value], h);
      unroll<R>([&](auto r) INLINE_LAMBDA {
        F& sum = total[r.value][c.value];
        sum = fma(s.scale, acc[r.value][c.value], sum);
        if constexpr (has_min(T)) {
          const std::int64_t group = input_at<R>(k / kGroup, r.value, a.columns / kGroup);
          sum = fma(s.min, set1(a.sums[group]), sum);
        }
      });
    });
  }
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
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
    total[r.value][c.value] = zero();
    ask_to_write(a.out + std::int64_t{r.value} * a.outputs + (panel + c.value) * 16, 64);
  });
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
