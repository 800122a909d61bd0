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

/// acc[r][c] += weights of half `h` of the units of C panels times 16 inputs of R rows, in order.
template <Type T, int R, int C>
INLINE void fused_half(const std::byte* const* units, int h, std::int64_t ahead, const float* x,
                       std::int64_t columns, F (&acc)[R][C]) {
  constexpr int kPlanes = panel_format(T).header_bytes, kSubBytes = panel_format(T).sub_bytes;
  Scales scales[C];
  const std::byte* planes[C];
  unroll<C>([&](auto c) INLINE_LAMBDA {
    scales[c.value] = load_scales<T>(units[c.value], h);
    planes[c.value] = units[c.value] + kPlanes + h / 2 * kSubBytes;
  });
  unroll<2>([&](auto p) INLINE_LAMBDA {
    Words words[C];
    unroll<C>([&](auto c) INLINE_LAMBDA {
      prefetch(planes[c.value] + ahead + (2 * (h % 2) + p.value) * 64);
      words[c.value] = load_words<T, p.value>(planes[c.value], h % 2);
    });
    unroll<8>([&](auto j) INLINE_LAMBDA {
      F w[C];
      unroll<C>([&](auto c) INLINE_LAMBDA {
        w[c.value] = weight<T, p.value, j.value>(words[c.value], scales[c.value]);
      });
      unroll<R>([&](auto r) INLINE_LAMBDA {
        const F value = set1(x[input_at<R>(8 * p.value + j.value, r.value, columns)]);
        unroll<C>([&](auto c) INLINE_LAMBDA {
          acc[r.value][c.value] = fma(w[c.value], value, acc[r.value][c.value]);
        });
      });
    });
  });
}

/// One chunk [k0, k0 + n) of C panels for R rows.
template <Type T, int R, int C>
INLINE void fused_chunk(const std::byte* const* panels, std::int64_t ahead, std::int32_t k0,
                        std::int32_t n, const float* x, std::int64_t columns, F (&acc)[R][C]) {
  constexpr PanelFormat format = panel_format(T);
  if constexpr (is_plain(T)) {
    for (std::int32_t k = k0; k < k0 + n; ++k) {
      F w[C];
      unroll<C>([&](auto c) INLINE_LAMBDA { w[c.value] = plain_weight<T>(panels[c.value], k); });
      unroll<R>([&](auto r) INLINE_LAMBDA {
        const F value = set1(x[input_at<R>(k, r.value, columns)]);
        unroll<C>([&](auto c) INLINE_LAMBDA {
          acc[r.value][c.value] = fma(w[c.value], value, acc[r.value][c.value]);
        });
      });
    }
  } else {
    for (std::int32_t k = k0; k < k0 + n; k += 16) {
      const std::byte* units[C];
      const std::int64_t at = k / format.unit * format.unit_bytes();
      unroll<C>([&](auto c) INLINE_LAMBDA { units[c.value] = panels[c.value] + at; });
      fused_half<T, R, C>(units, k % format.unit / 16, ahead, x + input_at<R>(k, 0, columns),
                          columns, acc);
    }
  }
}

/// C panels from `panel` on, all inputs, R rows.
template <Type T, int R, int C>
void fused_panels(const FusedArgs& a, std::int32_t panel) {
  const std::byte* panels[C];
  unroll<C>([&](auto c)
                INLINE_LAMBDA { panels[c.value] = a.panels + (panel + c.value) * a.panel_bytes; });
  // Ask for the next group of panels while this one is used, if that fits the second-level cache.
  const std::int64_t group = C * a.panel_bytes;
  const std::int64_t ahead = group <= kPrefetchGroup ? group : kPrefetchBytes;
  F total[R][C];
  for (std::int32_t k0 = 0; k0 < a.columns; k0 += kChunk) {
    const std::int32_t n = a.columns - k0 < kChunk ? a.columns - k0 : kChunk;
    F acc[R][C];
    unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { acc[r.value][c.value] = zero(); });
    fused_chunk<T, R, C>(panels, ahead, k0, n, a.x, a.columns, acc);
    unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
      const F sum = acc[r.value][c.value];
      total[r.value][c.value] = k0 == 0 ? sum : add(total[r.value][c.value], sum);
    });
  }
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
    store_outputs(a.out + std::int64_t{r.value} * a.outputs, (panel + c.value) * 16, a.outputs,
                  total[r.value][c.value], a.add);
  });
}

/// FusedArgs for R rows. Several panels side by side hide the latency of the fma chains.
template <Type T, int R>
void fused(const FusedArgs& a) {
  const std::int32_t end = a.first_panel + a.n_panels;
  std::int32_t panel = a.first_panel;
  if constexpr (R == 1 && kFusedPanels > 2)
    for (; panel + kFusedPanels <= end; panel += kFusedPanels)
      fused_panels<T, R, kFusedPanels>(a, panel);
  constexpr int C = 2 * R <= kAccumulators ? 2 : 1;
  for (; panel < end; panel += C) fused_panels<T, R, C>(a, panel);
}

/// UnpackFn: see table.h.
template <Type T>
void unpack(const std::byte* panel, std::int32_t k0, std::int32_t n, float* out) {
  constexpr PanelFormat format = panel_format(T);
  if constexpr (is_plain(T)) {
    for (std::int32_t k = 0; k < n; ++k) store(out + k * 16, plain_weight<T>(panel, k0 + k));
  } else {
    for (std::int32_t k = 0; k < n; k += 16) {
      const std::byte* unit = panel + (k0 + k) / format.unit * format.unit_bytes();
      const int h = (k0 + k) % format.unit / 16;
      const Scales scales = load_scales<T>(unit, h);
      const std::byte* planes = unit + format.header_bytes + h / 2 * format.sub_bytes;
      float* to = out + k * 16;
      unroll<2>([&](auto p) INLINE_LAMBDA {
        prefetch(planes + kPrefetchBytes + (2 * (h % 2) + p.value) * 64);
        const Words words = load_words<T, p.value>(planes, h % 2);
        unroll<8>([&](auto j) INLINE_LAMBDA {
          store(to + (8 * p.value + j.value) * 16, weight<T, p.value, j.value>(words, scales));
        });
      });
    }
  }
}

/// TileArgs: R rows times C panels.
template <int C, int R>
void tile(const TileArgs& a) {
  F acc[R][C];
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA { acc[r.value][c.value] = zero(); });
  const float* w = a.weights;
  const float* x = a.x;
  for (std::int32_t k = 0; k < a.n; ++k, w += 16, x += R) {
    F v[C];
    unroll<C>([&](auto c) INLINE_LAMBDA { v[c.value] = load(w + c.value * kChunk * 16); });
    unroll<R>([&](auto r) INLINE_LAMBDA {
      const F value = set1(x[r.value]);
      unroll<C>([&](auto c) INLINE_LAMBDA {
        acc[r.value][c.value] = fma(v[c.value], value, acc[r.value][c.value]);
      });
    });
  }
  unroll2<R, C>([&](auto r, auto c) INLINE_LAMBDA {
    float* total = a.total + (r.value * C + c.value) * 16;
    const F sum = acc[r.value][c.value];
    store(total, a.first ? sum : add(load(total), sum));
  });
}
