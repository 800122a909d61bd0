// exp, norms, rotation and the other small ops; docs/numerics.md has each formula.

INLINE F exp_f(F x) {
  using C = ExpConstants;
  const F t = fma(x, set1(C::kLog2e), set1(C::kMagic));
  const F n = sub(t, set1(C::kMagic));
  const F r = fma(n, set1(-C::kLn2Lo), fma(n, set1(-C::kLn2Hi), x));
  F p = fma(set1(C::kP0), r, set1(C::kP1));
  p = fma(p, r, set1(C::kP2));
  p = fma(p, r, set1(C::kP3));
  p = fma(p, r, set1(C::kP4));
  p = fma(p, r, set1(C::kP5));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  const F power = as_float(add_u(shift_left<23>(as_uint(t)), 0x3f800000u));
  F y = mul(p, power);
  y = if_less(x, set1(C::kMin), zero(), y);
  return if_less(set1(C::kMax), x, set1(__builtin_inff()), y);
}

/// The first n <= 16 floats, zeros after.
INLINE F load_part(const float* x, std::int32_t n) {
  if (n >= 16) return load(x);
  float lanes[16] = {};
  for (std::int32_t i = 0; i < n; ++i) lanes[i] = x[i];
  return load(lanes);
}

INLINE void store_part(float* out, F v, std::int32_t n) {
  if (n >= 16) return store(out, v);
  float lanes[16];
  store(lanes, v);
  for (std::int32_t i = 0; i < n; ++i) out[i] = lanes[i];
}

inline void rms_norm(const RowNormArgs& a) {
  F sum = zero();
  for (std::int32_t k = 0; k < a.columns; k += 16) {
    const F x = load_part(a.x + k, a.columns - k);
    sum = fma(x, x, sum);
  }
  const float mean = tree_sum(sum) / static_cast<float>(a.columns);
  const F inv = set1(1.0f / __builtin_sqrtf(mean + a.epsilon));
  for (std::int32_t k = 0; k < a.columns; k += 16) {
    const std::int32_t n = a.columns - k;
    store_part(a.out + k, mul(mul(load_part(a.x + k, n), inv), load_part(a.weight + k, n)), n);
  }
}

/// Pairs (2i, 2i+1) of one head; table [rope_size / 2][cos, sin].
inline void rope(float* head, const float* table, std::int32_t rope_size) {
  for (std::int32_t i = 0; i < rope_size; i += 16) {
    const std::int32_t n = rope_size - i < 16 ? rope_size - i : 16;
    store_part(head + i, rotate_pairs(load_part(head + i, n), load_part(table + i, n)), n);
  }
}

inline void swiglu(const float* gate, const float* up, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const std::int32_t left = n - i < 16 ? static_cast<std::int32_t>(n - i) : 16;
    const F g = load_part(gate + i, left);
    const F silu = div(g, add(set1(1.0f), exp_f(sub(zero(), g))));
    store_part(out + i, mul(silu, load_part(up + i, left)), left);
  }
}

inline void add_rows(const float* a, const float* b, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const std::int32_t left = n - i < 16 ? static_cast<std::int32_t>(n - i) : 16;
    store_part(out + i, add(load_part(a + i, left), load_part(b + i, left)), left);
  }
}

inline void row_divide(float* x, float by, std::int32_t n) {
  for (std::int32_t i = 0; i < n; i += 16)
    store_part(x + i, div(load_part(x + i, n - i), set1(by)), n - i);
}

inline float dot(const float* a, const float* b, std::int32_t n, float scale) {
  float acc = 0.0f;
  for (std::int32_t i = 0; i < n; ++i) acc = __builtin_fmaf(a[i], b[i], acc);
  return acc * scale;
}

/// out[d] = sum over keys in chunks of fma(weights[j], v[j][d]).
inline void weighted_sum(const float* weights, const float* v, std::int64_t v_stride,
                         std::int32_t keys, std::int32_t n, float* out) {
  for (std::int32_t d = 0; d < n; d += 16) {
    F total = zero();
    for (std::int32_t chunk = 0; chunk < keys; chunk += kChunk) {
      const std::int32_t end = keys < chunk + kChunk ? keys : chunk + kChunk;
      F acc = zero();
      for (std::int32_t j = chunk; j < end; ++j)
        acc = fma(set1(weights[j]), load_part(v + j * v_stride + d, n - d), acc);
      total = chunk == 0 ? acc : add(total, acc);
    }
    store_part(out + d, total, n - d);
  }
}

inline void to_half(const float* x, std::uint16_t* out, std::int32_t n) {
  std::int32_t i = 0;
  for (; i + 16 <= n; i += 16) store_half(out + i, load(x + i));
  if (i < n) {
    std::uint16_t lanes[16];
    store_half(lanes, load_part(x + i, n - i));
    for (std::int32_t l = 0; i + l < n; ++l) out[i + l] = lanes[l];
  }
}

/// The twins of base/math.h's functions, compiled with this file's flags.
inline float int16_scale(const float* x, std::int32_t n) {
  float largest = 0.0f, poison = 0.0f;
  for (std::int32_t i = 0; i < n; ++i) {
    const float magnitude = __builtin_fabsf(x[i]);
    largest = magnitude > largest ? magnitude : largest;
    poison += x[i] - x[i];
  }
  return largest / 32767.0f + poison;
}
inline std::int32_t to_int16_code(float x, float scale) {
  if (!(scale > 0.0f)) return 0;
  const float rounded = (x / scale + ExpConstants::kMagic) - ExpConstants::kMagic;
  return static_cast<std::int32_t>(rounded > 32767.0f    ? 32767.0f
                                   : rounded < -32767.0f ? -32767.0f
                                                         : rounded);
}

inline float to_int16(const float* x, std::uint16_t* out, std::int32_t n) {
  const float scale = int16_scale(x, n);
  for (std::int32_t i = 0; i < n; ++i)
    out[i] = static_cast<std::uint16_t>(to_int16_code(x[i], scale));
  return scale;
}

inline float read_floats(const float* x, std::int64_t n) {
  F lanes[8];
  unroll<8>([&](auto i) INLINE_LAMBDA { lanes[i.value] = zero(); });
  for (std::int64_t k = 0; k < n; k += 128)
    unroll<8>([&](auto i) INLINE_LAMBDA {
      lanes[i.value] = max(lanes[i.value], load(x + k + i.value * 16));
    });
  unroll<7>([&](auto i) INLINE_LAMBDA { lanes[0] = max(lanes[0], lanes[i.value + 1]); });
  return tree_sum(lanes[0]);
}

inline std::int64_t burn(std::int64_t n, float* sink) {
  constexpr int kChains = kAccumulators < 12 ? kAccumulators : 12;
  F acc[kChains];
  unroll<kChains>([&](auto c) INLINE_LAMBDA { acc[c.value] = set1(static_cast<float>(c.value)); });
  const F x = set1(sink[0]), y = set1(sink[1]);
  for (std::int64_t i = 0; i < n; ++i)
    unroll<kChains>([&](auto c) INLINE_LAMBDA { acc[c.value] = fma(acc[c.value], x, y); });
  unroll<kChains - 1>([&](auto c) INLINE_LAMBDA { acc[0] = add(acc[0], acc[c.value + 1]); });
  store(sink, acc[0]);
  return n * kChains * 16 * 2;
}
