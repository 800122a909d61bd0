// Products with weights of codes: inputs become integers of three digits each, codes and digits are
// multiplied as bytes and summed exactly, and a group's sum is rounded and scaled once
// (docs/numerics.md, `round` and `matmul`).

// ---- inputs ----

inline constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to integers
inline constexpr std::uint32_t kRoundMagicBits = 0x4B400000u;
inline constexpr std::uint32_t kDigitBias = 64u * (1 + 128 + 128 * 128);  // makes digits 0..128

/// Digits of 16 inputs: [4 quads][low, middle, high, none][4], as bytes.
INLINE U round16(F x, F inverse) {
  // Digits are made positive, parted, made four bytes of a kind each, and signed again.
  const U biased = add_u(as_uint(fma(x, inverse, set1(kRoundMagic))), kDigitBias - kRoundMagicBits);
  U bytes = and_word(biased, 0x7f);
  bytes = or_and(bytes, shift_left<1>(biased), 0x7f00);
  bytes = or_and(bytes, shift_left<2>(biased), 0xff0000);
  return sub_bytes(transpose_bytes(bytes), 64);
}

/// Exact sums of the inputs of a half or a whole group, from the sums of its digits in each quad.
template <int Size>
INLINE void store_sums(const RoundArgs& a, std::int64_t at, float scale, U quads) {
  std::int32_t digit[4];
  store_quarters_sum(digit, quads);
  const std::int32_t high = 128 * digit[2] + digit[1], low = digit[0];
  if (a.wanted.sums[Size]) a.run.sums[Size][at] = static_cast<float>(128 * high + low) * scale;
  if (!a.wanted.less[Size]) return;
  a.run.less[Size][2 * at] = -high;
  a.run.less[Size][2 * at + 1] = -low;
}

/// Biased exponents: of the least largest input that gets a scale of its own, and of what is not
/// finite.
inline constexpr std::uint32_t kLeastExponent = 20, kNotFinite = 255;

inline void round_groups(const RoundArgs& args) {
  const RoundArgs a = args;  // not to be read again after each store of bytes
  const bool halves = a.wanted.sums[0] || a.wanted.less[0],
             whole = a.wanted.sums[1] || a.wanted.less[1];
  for (std::int64_t g = a.first; g < a.end; ++g) {
    const F x[2] = {load(a.x + g * kRoundGroup), load(a.x + g * kRoundGroup + 16)};
    const std::uint32_t largest = largest_word(
        max_words(and_word(as_uint(x[0]), 0x7fffffffu), and_word(as_uint(x[1]), 0x7fffffffu)));
    const std::uint32_t biased = largest >> 23;
    const std::uint32_t e = biased < kLeastExponent ? kLeastExponent : biased;
    // 2^19 is taken from the exponent of the scale and added to that of its inverse.
    const float scale =
        biased == kNotFinite ? __builtin_nanf("") : __builtin_bit_cast(float, (e - 19) << 23);
    const F inverse = set1(__builtin_bit_cast(float, (127 + 127 + 19 - e) << 23));
    const U digits[2] = {round16(x[0], inverse), round16(x[1], inverse)};
    const std::int64_t at = g * a.rows + a.row;
    std::int8_t* to = a.run.digits + at * (4 * kRoundGroup);
    store_words16(to, digits[0]);
    store_words16(to + 64, digits[1]);
    a.run.scales[at] = scale;
    if (!halves && !whole) continue;
    const U ones = set1_word(0x01010101);
    const U quads[2] = {dot_add<false>(zero_words(), ones, digits[0]),
                        dot_add<false>(zero_words(), ones, digits[1])};
    if (whole) store_sums<1>(a, at, scale, add_words(quads[0], quads[1]));
    if (!halves) continue;
    store_sums<0>(a, 2 * g * a.rows + a.row, scale, quads[0]);
    store_sums<0>(a, (2 * g + 1) * a.rows + a.row, scale, quads[1]);
  }
}

// ---- products ----

/// Codes and scales of a group of 32 inputs of C panels.
template <Type T, int C>
struct Group {
  static constexpr int kParts = 32 / group_of(T);  // with scales of their own
  U codes[8][C];
  Scales scales[kParts][C];
};

template <Type T, int C>
INLINE void load_group(const std::byte* const* panels, std::int32_t k, Fetch* weights,
                       Group<T, C>& to) {
  constexpr PanelFormat format = panel_format(T);
  constexpr int kHalfBytes = static_cast<int>(format.unit_bytes()) / (format.unit / 16);
  const std::int64_t at = k / format.unit * unit_stride(T);
  const int sub = k % format.unit / 32;
  const std::int64_t planes = at + format.header_bytes + sub * format.sub_bytes;
  unroll<2>([&](auto h) INLINE_LAMBDA {
    fetch<C * kHalfBytes>(weights);
    unroll2<4, C>([&](auto q, auto c) INLINE_LAMBDA {
      constexpr int kQuad = 4 * h.value + q.value;
      to.codes[kQuad][c.value] = quad<T, kQuad>(panels[c.value] + planes);
    });
  });
  unroll2<Group<T, C>::kParts, C>([&](auto p, auto c) INLINE_LAMBDA {
    to.scales[p.value][c.value] = load_scales<T>(panels[c.value] + at, 2 * sub + p.value);
  });
}

/// The sum of codes times inputs of a part of a group, rounded to a float, from the sums of its
/// low, middle and high digits. `less`: see RoundedRun.
template <Type T>
INLINE F group_sum(const U (&sums)[3], const std::int32_t* less) {
  constexpr int kOffset = offset_bits(T);
  U low = dot_end<sums_fit(T)>(sums[0]);
  U high = add_words(shift_left<7>(dot_end<sums_fit(T)>(sums[2])), dot_end<sums_fit(T)>(sums[1]));
  if constexpr (kOffset >= 0) {
    high = add_words(high, shift_left<kOffset>(set1_word(less[0])));
    low = add_words(low, shift_left<kOffset>(set1_word(less[1])));
  }
  if constexpr (sums_fit(T)) return to_float(add_words(shift_left<7>(high), low));
  return fma(to_float(high), set1(128.0f), to_float(low));
}

/// total[c] += a group of `row` times C panels.
template <Type T, int C>
INLINE void add_group(const CodedArgs& a, const Group<T, C>& group, std::int32_t k,
                      std::int32_t row, F (&total)[C]) {
  constexpr int kParts = Group<T, C>::kParts, kQuads = 8 / kParts, kSums = kParts == 2 ? 0 : 1;
  const std::int64_t g = k / kRoundGroup, at = g * a.rows + row;
  const std::int8_t* digits = a.x.digits + at * (4 * kRoundGroup);
  const F scale = set1(a.x.scales[at]);
  unroll<kParts>([&](auto p) INLINE_LAMBDA {
    U sums[C][3];
    unroll2<C, 3>([&](auto c, auto d) INLINE_LAMBDA { sums[c.value][d.value] = zero_words(); });
    unroll2<kQuads, 3>([&](auto q, auto d) INLINE_LAMBDA {
      constexpr int kQuad = p.value * kQuads + q.value;
      const U x = set1_digits(digits + 16 * kQuad + 4 * d.value);
      unroll<C>([&](auto c) INLINE_LAMBDA {
        U& sum = sums[c.value][d.value];
        sum = dot_add<sums_fit(T)>(sum, group.codes[kQuad][c.value], x);
      });
    });
    const std::int64_t part_at = (g * kParts + p.value) * a.rows + row;
    unroll<C>([&](auto c) INLINE_LAMBDA {
      const Scales& s = group.scales[p.value][c.value];
      F& y = total[c.value];
      y = fma(mul(s.scale, scale), group_sum<T>(sums[c.value], a.x.less[kSums] + 2 * part_at), y);
      if constexpr (has_min(T)) y = fma(s.min, set1(a.x.sums[kSums][part_at]), y);
    });
  });
}

/// body(first panel, panels) for groups of C panels of the pair from `panel` on: a pair is one run
/// of memory, so both of its panels are read before the next inputs.
template <Type T, int C, class Body>
INLINE void for_pair(const CodedArgs& a, std::int32_t panel, Body&& body) {
  unroll<kPairPanels / C>([&](auto part) INLINE_LAMBDA {
    const std::byte* panels[C];
    unroll<C>([&](auto c) INLINE_LAMBDA {
      panels[c.value] = panel_at(a.panels, T, a.panel_bytes, panel + part.value * C + c.value);
    });
    body(part, panels);
  });
}

/// CodedArgs for one row: sums stay in registers.
template <Type T>
void coded_row(const CodedArgs& a) {
  constexpr int C = kCodedPanels, kParts = kPairPanels / C;
  for (std::int32_t panel = a.first_panel; panel < a.first_panel + a.n_panels;
       panel += kPairPanels) {
    F total[kParts][C];
    unroll2<kParts, C>([&](auto p, auto c) INLINE_LAMBDA { total[p.value][c.value] = zero(); });
    ask_to_write(a.out + panel * 16, kPairPanels * 64);
    for (std::int32_t k = 0; k < a.columns; k += kRoundGroup)
      for_pair<T, C>(a, panel, [&](auto p, const auto& panels) INLINE_LAMBDA {
        Group<T, C> group;
        load_group<T, C>(panels, k, a.weights, group);
        add_group<T, C>(a, group, k, 0, total[p.value]);
      });
    unroll2<kParts, C>([&](auto p, auto c) INLINE_LAMBDA {
      store_outputs(a.out, (panel + p.value * C + c.value) * 16, a.outputs, total[p.value][c.value],
                    a.add);
    });
  }
}

/// CodedArgs for any number: codes stay in registers, sums in memory.
template <Type T>
void coded_rows(const CodedArgs& a) {
  constexpr int C = kCodedPanels;
  alignas(64) float totals[kCodedRows][kPairPanels][16];
  for (std::int32_t panel = a.first_panel; panel < a.first_panel + a.n_panels;
       panel += kPairPanels) {
    for (std::int32_t row = 0; row < a.rows; ++row) {
      ask_to_write(a.out + std::int64_t{row} * a.outputs + panel * 16, kPairPanels * 64);
      unroll<kPairPanels>([&](auto c) INLINE_LAMBDA { store(totals[row][c.value], zero()); });
    }
    for (std::int32_t k = 0; k < a.columns; k += kRoundGroup)
      for_pair<T, C>(a, panel, [&](auto p, const auto& panels) INLINE_LAMBDA {
        constexpr int kFirst = p.value * C;
        Group<T, C> group;
        load_group<T, C>(panels, k, a.weights, group);
        for (std::int32_t row = 0; row < a.rows; ++row) {
          fetch<fetch_bytes(C)>(a.fetch);
          F total[C];
          unroll<C>([&](auto c)
                        INLINE_LAMBDA { total[c.value] = load(totals[row][kFirst + c.value]); });
          add_group<T, C>(a, group, k, row, total);
          unroll<C>([&](auto c)
                        INLINE_LAMBDA { store(totals[row][kFirst + c.value], total[c.value]); });
        }
      });
    for (std::int32_t row = 0; row < a.rows; ++row)
      unroll<kPairPanels>([&](auto c) INLINE_LAMBDA {
        store_outputs(a.out + std::int64_t{row} * a.outputs, (panel + c.value) * 16, a.outputs,
                      load(totals[row][c.value]), a.add);
      });
  }
}

inline std::int64_t burn_integers(std::int64_t n, float* sink) {
  constexpr int kChains = kAccumulators < 12 ? kAccumulators : 12;
  U sums[kChains];
  unroll<kChains>([&](auto c) INLINE_LAMBDA { sums[c.value] = set1_word(c.value); });
  U codes = set1_digits(sink);
  const U digits = set1_digits(sink + 1);
  for (std::int64_t i = 0; i < n; ++i) {
    unroll<kChains>(
        [&](auto c) INLINE_LAMBDA { sums[c.value] = dot_add<true>(sums[c.value], codes, digits); });
    codes = add_u(codes, 1);  // the same products again could be taken out of the loop
  }
  unroll<kChains - 1>([&](auto c)
                          INLINE_LAMBDA { sums[0] = add_words(sums[0], sums[c.value + 1]); });
  store(sink, to_float(sums[0]));
  return n * kChains * 16 * 4 * 2 / 3;
}
