// tree16 (docs/numerics.md) through memory, for the instruction sets without a shuffle for it.

INLINE float tree_sum(const F& x) {
  float s[16];
  store(s, x);
  for (int step = 8; step > 0; step /= 2)
    for (int l = 0; l < step; ++l) s[l] = s[l] + s[l + step];
  return s[0];
}
