// The last steps of tree16 (docs/numerics.md) in registers, for the instruction sets with 256-bit
// ones.

/// Lanes 0 to 7 of tree16, docs/numerics.md.
INLINE float tree_sum8(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
