// Codes to floats, for every packed format, over the vector type of the including file.
// A code of b bits that stands at bit p of a word is OR-ed into the mantissa of 2^(23-p), which
// gives the float 2^(23-p) + code without moving it; subtracting 2^(23-p) leaves the code, exactly,
// and subtracting a little more leaves it without the offset it is kept with.
// Codes too high for the mantissa are first shifted down by 12 with their whole word.

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

template <int P>
inline constexpr std::uint32_t kMagicBits = static_cast<std::uint32_t>(127 + 23 - P) << 23;
template <int P>
inline constexpr float kMagicValue = static_cast<float>(1 << (23 - P));

/// The code of Low bits at bit P of `low`, with High more bits at bit P + Low of `high`, less
/// Offset.
template <int P, int Low, int High, int Offset>
INLINE F code_at(U low, U high) {
  U t = and_or(low, ((1u << Low) - 1) << P, kMagicBits<P>);
  if constexpr (High > 0) t = or_and(t, high, ((1u << High) - 1) << (P + Low));
  return sub(as_float(t), set1(kMagicValue<P> + static_cast<float>(Offset)));
}

constexpr int low_bits(Type t) {
  return t == Type::Q8_0 ? 8 : t == Type::Q2_K || t == Type::Q3_K ? 2 : 4;
}
constexpr int high_bits(Type t) {
  switch (t) {
    case Type::Q5_0:
    case Type::Q5_1:
    case Type::Q5_K:
    case Type::Q3_K: return 1;
    case Type::Q6_K: return 2;
    default: return 0;
  }
}
/// What is taken off a code as it is kept: signed codes are kept as unsigned ones.
constexpr int code_offset(Type t) {
  switch (t) {
    case Type::Q4_0: return 8;
    case Type::Q5_0: return 16;
    case Type::Q8_0: return 128;
    case Type::Q3_K: return 4;
    case Type::Q6_K: return 32;
    default: return 0;
  }
}
constexpr int group_of(Type t) {
  return quant::type_info(t).group;
}
constexpr bool has_min(Type t) {
  return quant::type_info(t).has_min;
}
constexpr bool is_plain(Type t) {
  return group_of(t) == 0;
}
constexpr bool has_lut(Type t) {
  return t == Type::IQ4_NL || t == Type::IQ4_XS;
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

/// The words of group P (8 inputs) of a half sub-block, as they stand and shifted down for the
/// last.
struct Words {
  U low, low_down, high, high_down;
};

/// Words of group P of half `h` (0 or 1) of a sub-block; see pack.h for where each bit stands.
template <Type T, int P>
INLINE Words load_words(const std::byte* planes, int h) {
  Words w;
  if constexpr (low_bits(T) == 8) {
    w.low = load_words16(planes + (4 * h + 2 * P) * 64);
    w.high = load_words16(planes + (4 * h + 2 * P + 1) * 64);
    w.low_down = shift_right<16>(w.low);
    w.high_down = shift_right<16>(w.high);
    return w;
  }
  w.low = load_words16(planes + (low_bits(T) == 4 ? 2 * h + P : h) * 64);
  w.low_down = shift_right<12>(w.low);
  if constexpr (high_bits(T) > 0) {
    // Bit 4j + 2h + P of the one-bit plane, or bits 4j + 2P of word h of the two-bit plane, must
    // come to stand above the low bits: up for inputs 0..4, 12 lower for inputs 5..7.
    constexpr bool one = high_bits(T) == 1;
    constexpr int up = low_bits(T) == 2 ? P + 2 : one ? 4 - P : 4 - 2 * P;
    const std::byte* plane = planes + low_bits(T) * 64 + (one ? 0 : h * 64);
    const U bits = one ? shift_right_by(load_words16(plane), 2 * h) : load_words16(plane);
    w.high = shift_left<up>(bits);
    w.high_down = shift_right<12 - up>(bits);
  }
  return w;
}

/// Code of input 8P + J of a half sub-block.
template <Type T, int P, int J>
INLINE F code(const Words& w) {
  constexpr int kOffset = code_offset(T);
  if constexpr (low_bits(T) == 8) {
    const U word = J < 4 ? (J % 4 < 2 ? w.low : w.low_down) : (J % 4 < 2 ? w.high : w.high_down);
    return code_at<8 * (J % 2), 8, 0, kOffset>(word, word);
  } else if constexpr (has_lut(T)) {
    return lookup_iq4(shift_right<4 * J>(w.low));
  } else if constexpr (Nibbles::kByTable && low_bits(T) == 4 && high_bits(T) == 0) {
    return Nibbles::look_up<kOffset>(shift_right<4 * J>(w.low));
  } else {
    constexpr bool down = J >= 5;
    constexpr int at = 4 * J + (low_bits(T) == 2 ? 2 * P : 0) - (down ? 12 : 0);
    return code_at<at, low_bits(T), high_bits(T), kOffset>(down ? w.low_down : w.low,
                                                           down ? w.high_down : w.high);
  }
}

/// Weights of input k of a plain panel.
template <Type T>
INLINE F plain_weight(const std::byte* panel, std::int64_t k) {
  const std::byte* at = panel + k * unit_stride(T);
  if constexpr (T == Type::F32) return load(reinterpret_cast<const float*>(at));
  if constexpr (T == Type::F16) return load_half(at);
  if constexpr (T == Type::BF16) return load_bf16(at);
}
