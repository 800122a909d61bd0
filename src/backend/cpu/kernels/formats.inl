// Codes and scales of every packed format, over the vector types of the including file.

using quant::Type;

/// Register arrays are only ever indexed by constants: a loop over them that is not unrolled by
/// hand would put them in memory.
template <int I>
struct Constant {
  static constexpr int value = I;
};

/// Calls body(Constant<I>) for I = 0..N-1, unrolled.
template <int N, int I = 0, class Body>
INLINE void unroll(Body&& body) {
  if constexpr (I < N) {
    body(Constant<I>{});
    unroll<N, I + 1>(body);
  }
}
/// body(Constant<r>, Constant<c>) for all r < R, c < C.
template <int R, int C, class Body>
INLINE void unroll2(Body&& body) {
  unroll<R>([&](auto r) INLINE_LAMBDA { unroll<C>([&](auto c) INLINE_LAMBDA { body(r, c); }); });
}

/// What is taken off a code as it is multiplied, as a power of two's exponent; -1: nothing.
constexpr int offset_bits(Type t) {
  const bool bytes = code_bits(t) == 8 || has_table(t);
  const int offset = bytes ? (kSignedBytes ? 0 : 128) : code_offset(t);
  for (int bits = 0; bits < 8; ++bits)
    if (offset == 1 << bits) return bits;
  return -1;
}
/// Whether products of a code with three digits, summed over a group, fit an integer of 32 bits.
constexpr bool sums_fit(Type t) {
  return code_bits(t) < 8 && !has_table(t);
}
constexpr int group_of(Type t) {
  return quant::type_info(t).group;
}
constexpr bool has_min(Type t) {
  return quant::type_info(t).has_min;
}
/// Up for N > 0, down for N < 0.
template <int N>
INLINE U shift_up(U a) {
  if constexpr (N >= 0)
    return shift_left<N>(a);
  else
    return shift_right<-N>(a);
}

/// weight = scale * code + min for the inputs of a group; min is not read where has_min() is false.
struct Scales {
  F scale, min;
};

/// Scales of the group that half `h` (16 inputs) of a unit is in.
template <Type T>
INLINE Scales load_scales(const std::byte* unit, int h) {
  using enum Type;
  const F d = load_half(unit);
  if constexpr (T == Q4_1 || T == Q5_1) return {d, load_half(unit + 32)};
  if constexpr (T == IQ4_XS) return {mul(d, load_i8(unit + 32 + h / 2 * 16)), d};
  if constexpr (T == Q4_K || T == Q5_K) {
    const std::byte* bytes = unit + 64 + h / 2 * 32;
    const F minus_dmin = sub(zero(), load_half(unit + 32));
    return {mul(d, load_u8(bytes)), mul(minus_dmin, load_u8(bytes + 16))};
  }
  if constexpr (T == Q2_K) {
    const std::byte* bytes = unit + 64 + h * 16;
    const F minus_dmin = sub(zero(), load_half(unit + 32));
    return {mul(d, load_low_nibbles(bytes)), mul(minus_dmin, load_high_nibbles(bytes))};
  }
  if constexpr (T == Q3_K || T == Q6_K) return {mul(d, load_i8(unit + 32 + h * 16)), d};
  return {d, d};
}

/// Codes of inputs 4Q..4Q+3 of a sub-block, a byte each; see pack.h for where each bit stands.
template <Type T, int Q>
INLINE U quad(const std::byte* planes) {
  constexpr int kLow = plane_bits(T).low, kHigh = plane_bits(T).high, kQuads = 8 / kLow;
  if constexpr (kLow == 8) return dot_bytes(load_words16(planes + Q * 64));
  const U word = load_words16(planes + Q / kQuads * 64);
  U codes = and_word(shift_right<Q % kQuads * kLow>(word), ((1u << kLow) - 1) * 0x01010101u);
  if constexpr (has_table(T)) return dot_bytes(lookup_iq4(codes));
  if constexpr (kHigh > 0) {
    constexpr int kAt = Q % (8 / kHigh) * kHigh;
    const U plane = load_words16(planes + kLow * 64 + Q / (8 / kHigh) * 64);
    const U moved = shift_up<kLow - kAt>(plane);
    codes = or_and(codes, moved, (((1u << kHigh) - 1) << kLow) * 0x01010101u);
  }
  return codes;
}

/// Weights of input k of a plain panel.
template <Type T>
INLINE F plain_weight(const std::byte* panel, std::int64_t k) {
  const std::byte* at = panel + k * unit_stride(T);
  if constexpr (T == Type::F32) return load(reinterpret_cast<const float*>(at));
  if constexpr (T == Type::F16) return load_half(at);
  if constexpr (T == Type::BF16) return load_bf16(at);
}
