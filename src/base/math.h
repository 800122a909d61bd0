// The scalar twins of the vector maths: what every backend on a CPU must equal bit for bit.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace herd {

/// Constants of exp(), shared with the vector kernels (Cephes' expf, S. Moshier).
struct ExpConstants {
  static constexpr float kMin = -87.0f, kMax = 88.0f;
  static constexpr float kLog2e = 1.44269504088896341f;
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f;
  static constexpr float kP0 = 1.9875691500e-4f, kP1 = 1.3981999507e-3f, kP2 = 8.3334519073e-3f,
                         kP3 = 4.1665795894e-2f, kP4 = 1.6666665459e-1f, kP5 = 5.0000001201e-1f;
};

/// e^x by fixed steps (docs/numerics.md): +0 below -87, +infinity above 88, NaN stays NaN.
inline float exp_f32(float x) {
  using C = ExpConstants;
  if (x < C::kMin) return 0.0f;
  if (x > C::kMax) return std::numeric_limits<float>::infinity();
  const float t = std::fma(x, C::kLog2e, C::kMagic);
  const float n = t - C::kMagic;
  const float r = std::fma(n, -C::kLn2Lo, std::fma(n, -C::kLn2Hi, x));
  float p = std::fma(C::kP0, r, C::kP1);
  p = std::fma(p, r, C::kP2);
  p = std::fma(p, r, C::kP3);
  p = std::fma(p, r, C::kP4);
  p = std::fma(p, r, C::kP5);
  p = std::fma(p, r * r, r) + 1.0f;
  const std::uint32_t power = (std::bit_cast<std::uint32_t>(t) << 23) + 0x3f800000u;
  return p * std::bit_cast<float>(power);
}

/// The fixed order in which 16 partial sums become one.
inline float tree16(float (&s)[16]) {
  for (int step = 8; step > 0; step /= 2)
    for (int l = 0; l < step; ++l) s[l] = s[l] + s[l + step];
  return s[0];
}

/// Keys are kept as 16-bit integers times one scale per head: largest magnitude / 32767. NaN if any
/// value is not finite, so that it cannot pass unseen.
inline float int16_scale(const float* x, int n) {
  float largest = 0.0f, poison = 0.0f;
  for (int i = 0; i < n; ++i) {
    largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
    poison += x[i] - x[i];  // 0, or NaN
  }
  return largest / 32767.0f + poison;
}
/// x / scale to the nearest integer, ties to even, within +-32767; 0 for a scale of 0 or NaN.
inline int to_int16_code(float x, float scale) {
  if (!(scale > 0.0f)) return 0;
  const float rounded = (x / scale + ExpConstants::kMagic) - ExpConstants::kMagic;
  return static_cast<int>(rounded > 32767.0f    ? 32767.0f
                          : rounded < -32767.0f ? -32767.0f
                                                : rounded);
}

inline float silu_f32(float g) {
  return g / (1.0f + exp_f32(-g));
}

}  // namespace herd
