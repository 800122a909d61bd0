// Fills the table with this file's instantiations.

template <Type T>
constexpr void fill_type(KernelTable& t) {
  constexpr int i = type_index(T);
  if constexpr (!is_plain(T)) {
    t.coded_row[i] = coded_row<T>;
    t.coded_rows[i] = coded_rows<T>;
  } else {
    t.fused[i][0] = fused<T, 1>;
    t.fused[i][1] = fused<T, 2>;
    t.fused[i][2] = fused<T, 4>;
    if constexpr (kAccumulators >= 16) {
      t.fused[i][3] = fused<T, 8>;
      t.fused[i][4] = fused<T, 16>;
    }
    t.unpack[i] = unpack<T>;
  }
}

template <int R>
constexpr void fill_rows(KernelTable& t) {
  if constexpr (R <= kTileRows) {
    t.tile[0][R - 1] = tile<1, R>;
    if constexpr (2 * R <= kAccumulators) t.tile[1][R - 1] = tile<2, R>;
    t.attention[R - 1] = attention<R>;
    fill_rows<R + 1>(t);
  }
}

constexpr KernelTable make_table(Isa isa) {
  KernelTable t = {};
  t.isa = isa;
  t.tile_rows = kTileRows;
  t.fused_rows = kFusedRows;
  t.tile_panels = 2 * kTileRows <= kAccumulators ? 2 : 1;
  using enum Type;
  fill_type<F32>(t), fill_type<F16>(t), fill_type<BF16>(t);
  fill_type<Q4_0>(t), fill_type<Q4_1>(t), fill_type<Q5_0>(t), fill_type<Q5_1>(t),
      fill_type<Q8_0>(t);
  fill_type<Q2_K>(t), fill_type<Q3_K>(t), fill_type<Q4_K>(t), fill_type<Q5_K>(t),
      fill_type<Q6_K>(t);
  fill_type<IQ4_NL>(t), fill_type<IQ4_XS>(t);
  fill_rows<1>(t);
  t.rms_norm = rms_norm;
  t.rope = rope;
  t.swiglu = swiglu;
  t.add = add_rows;
  t.round = round_groups;
  t.row_max = max_of;
  t.row_exp_sum = exp_sum;
  t.row_divide = row_divide;
  t.dot = dot;
  t.weighted_sum = weighted_sum;
  t.to_half = to_half;
  t.to_int16 = to_int16;
  t.read = read_floats;
  t.burn = burn;
  t.burn_integers = burn_integers;
  return t;
}
