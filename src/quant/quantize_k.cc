// Q4_K, Q5_K, Q6_K: each sub-block's scale is searched for the least squared error, then rounded
// to the bits it has in the block together with a look at its neighbours.
#include "quant/quantize_k.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/half.h"

namespace herd::quant {
namespace {

constexpr float kWorst = std::numeric_limits<float>::infinity();

/// `value` limited to low..high and rounded, halves up; NaN gives low.
int rounded(float value, int low, int high) {
  const float above = std::max(0.0f, value - static_cast<float>(low));
  return static_cast<int>(std::min(static_cast<float>(high - low), above) + 0.5f) + low;
}
float inverse(float scale) {
  const float i = scale == 0 ? 0 : 1 / scale;
  return std::isfinite(i) ? i : 0;
}
/// The half nearest to `scale` or the next away from zero: sub-scales are whole multiples of it, so
/// it must not fall short, and a tiny scale must not vanish.
std::uint16_t half_reaching(float scale) {
  const std::uint16_t half = float_to_half(scale);
  const bool short_of = std::fabs(half_to_float(half)) < std::fabs(scale);
  return short_of && (half & 0x7fff) < 0x7bff ? static_cast<std::uint16_t>(half + 1) : half;
}

// ---- Q4_K, Q5_K: value = scale * code - min, 8 sub-blocks of 32, 6-bit scales and mins ----

struct Line {
  float scale = 0, min = 0;
};

/// The nearest code of each value on the line.
void codes_on(Line line, const float* x, int top, int (&codes)[32]) {
  const float inv = inverse(line.scale);
  for (int i = 0; i < 32; ++i) codes[i] = rounded((x[i] + line.min) * inv, 0, top);
}
float squared_error(Line line, const float* x, int top) {
  int codes[32];
  codes_on(line, x, top, codes);
  float sum = 0;
  for (int i = 0; i < 32; ++i) {
    const float error = line.scale * static_cast<float>(codes[i]) - line.min - x[i];
    sum += error * error;
  }
  return sum;
}
/// The least-squares line through the codes that `line` gives; min stays >= 0 as the block needs.
Line refit(Line line, const float* x, int top) {
  int codes[32];
  codes_on(line, x, top, codes);
  float sum_c = 0, sum_cc = 0, sum_x = 0, sum_cx = 0;
  for (int i = 0; i < 32; ++i) {
    const float c = static_cast<float>(codes[i]);
    sum_c += c;
    sum_cc += c * c;
    sum_x += x[i];
    sum_cx += c * x[i];
  }
  const float determinant = 32 * sum_cc - sum_c * sum_c;
  if (!(determinant > 0)) return line;
  Line fit;
  fit.scale = (32 * sum_cx - sum_x * sum_c) / determinant;
  fit.min = (fit.scale * sum_c - sum_x) / 32;
  if (fit.min < 0) fit = {sum_cx / sum_cc, 0};
  return fit.scale > 0 ? fit : line;
}
/// Tries ranges a little narrower and wider than the values', each refitted.
Line best_line(const float* x, int top) {
  const auto [least, most] = std::minmax_element(x, x + 32);
  const float low = std::min(0.0f, *least), range = *most - low;
  if (!(range > 0)) return {0, -low};
  Line best;
  float best_error = kWorst;
  for (int step = -10; step <= 10; ++step) {
    const float steps = static_cast<float>(top) + 0.1f * static_cast<float>(step);
    const Line line = refit({range / steps, -low}, x, top);
    const float error = squared_error(line, x, top);
    if (error < best_error) {
      best_error = error;
      best = line;
    }
  }
  return best;
}

struct AffineScales {
  std::uint16_t d, dmin;  // half bits
  int scale[8], min[8];   // 0..63
  Line line(int j) const {
    return {half_to_float(d) * static_cast<float>(scale[j]),
            half_to_float(dmin) * static_cast<float>(min[j])};
  }
};
/// Of the 6-bit pairs next to `wanted`, sets the one with the least error for sub-block j.
void round_line(Line wanted, const float* x, int top, int j, AffineScales& scales) {
  const int scale = rounded(wanted.scale * inverse(half_to_float(scales.d)), 0, 63);
  const int min = rounded(wanted.min * inverse(half_to_float(scales.dmin)), 0, 63);
  float best_error = kWorst;
  AffineScales trial = scales;
  for (int s = std::max(0, scale - 1); s <= std::min(63, scale + 1); ++s)
    for (int m = std::max(0, min - 1); m <= std::min(63, min + 1); ++m) {
      trial.scale[j] = s;
      trial.min[j] = m;
      const float error = squared_error(trial.line(j), x, top);
      if (error < best_error) {
        best_error = error;
        scales.scale[j] = s;
        scales.min[j] = m;
      }
    }
}
AffineScales affine_scales(const float* x, int top) {
  Line wanted[8];
  float most_scale = 0, most_min = 0;
  for (int j = 0; j < 8; ++j) {
    wanted[j] = best_line(x + 32 * j, top);
    most_scale = std::max(most_scale, wanted[j].scale);
    most_min = std::max(most_min, wanted[j].min);
  }
  AffineScales scales{};
  scales.d = half_reaching(most_scale / 63);
  scales.dmin = half_reaching(most_min / 63);
  for (int j = 0; j < 8; ++j) round_line(wanted[j], x + 32 * j, top, j, scales);
  return scales;
}

/// 8 scales and 8 mins of 6 bits in 12 bytes.
void put_scales(const AffineScales& from, std::uint8_t (&s)[12]) {
  for (int j = 0; j < 4; ++j) {
    const int scale = from.scale[j + 4], min = from.min[j + 4];
    s[j] = static_cast<std::uint8_t>(from.scale[j] | (scale >> 4) << 6);
    s[j + 4] = static_cast<std::uint8_t>(from.min[j] | (min >> 4) << 6);
    s[j + 8] = static_cast<std::uint8_t>((scale & 15) | (min & 15) << 4);
  }
}
/// Low 4 bits of sub-block j's codes: even ones in the low nibbles of 32 bytes, odd ones above.
void put_nibbles(const int (&codes)[32], int j, std::uint8_t* qs) {
  for (int i = 0; i < 32; ++i) {
    std::uint8_t& byte = qs[j / 2 * 32 + i];
    byte = static_cast<std::uint8_t>(byte | (codes[i] & 15) << (j % 2 * 4));
  }
}
template <class Block>
AffineScales begin_affine(const float* x, int top, Block& b) {
  std::memset(&b, 0, sizeof b);
  const AffineScales scales = affine_scales(x, top);
  b.d = scales.d;
  b.dmin = scales.dmin;
  put_scales(scales, b.scales);
  return scales;
}

// ---- Q6_K: value = scale * code, codes -32..31, 16 sub-blocks of 16, 8-bit signed scales ----

void signed_codes(float scale, const float* x, int (&codes)[16]) {
  const float inv = inverse(scale);
  for (int i = 0; i < 16; ++i) codes[i] = rounded(x[i] * inv, -32, 31);
}
float squared_error(float scale, const float* x) {
  int codes[16];
  signed_codes(scale, x, codes);
  float sum = 0;
  for (int i = 0; i < 16; ++i) {
    const float error = scale * static_cast<float>(codes[i]) - x[i];
    sum += error * error;
  }
  return sum;
}
float refit(float scale, const float* x) {
  int codes[16];
  signed_codes(scale, x, codes);
  float sum_cc = 0, sum_cx = 0;
  for (int i = 0; i < 16; ++i) {
    sum_cc += static_cast<float>(codes[i] * codes[i]);
    sum_cx += static_cast<float>(codes[i]) * x[i];
  }
  return sum_cc > 0 ? sum_cx / sum_cc : scale;
}
/// Signed, so that the value of largest magnitude falls near code -32.
float best_scale(const float* x) {
  const float extreme =
      *std::max_element(x, x + 16, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  float best = 0, best_error = kWorst;
  for (int step = -10; step <= 10; ++step) {
    const float scale = refit(extreme / -(32 + 0.1f * static_cast<float>(step)), x);
    const float error = squared_error(scale, x);
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  return best;
}
/// Of the 8-bit scales next to `wanted` in units of d, the one with the least error.
int round_scale(float wanted, float d, const float* x) {
  const int nearest = rounded(wanted * inverse(d), -128, 127);
  int best = nearest;
  float best_error = kWorst;
  for (int s = std::max(-128, nearest - 1); s <= std::min(127, nearest + 1); ++s) {
    const float error = squared_error(d * static_cast<float>(s), x);
    if (error < best_error) {
      best_error = error;
      best = s;
    }
  }
  return best;
}
/// Code k's low 4 and high 2 bits, biased by 32, to their places.
void put_six_bits(int code, int k, BlockQ6_K& b) {
  const int half = k / 128, quarter = k % 128 / 32, l = k % 32, biased = code + 32;
  std::uint8_t& low = b.ql[half * 64 + quarter % 2 * 32 + l];
  std::uint8_t& high = b.qh[half * 32 + l];
  low = static_cast<std::uint8_t>(low | (biased & 15) << (quarter / 2 * 4));
  high = static_cast<std::uint8_t>(high | (biased >> 4) << (quarter * 2));
}

}  // namespace

void quantize_block(const float* x, BlockQ4_K& b) {
  const AffineScales scales = begin_affine(x, 15, b);
  for (int j = 0; j < 8; ++j) {
    int codes[32];
    codes_on(scales.line(j), x + 32 * j, 15, codes);
    put_nibbles(codes, j, b.qs);
  }
}

void quantize_block(const float* x, BlockQ5_K& b) {
  const AffineScales scales = begin_affine(x, 31, b);
  for (int j = 0; j < 8; ++j) {
    int codes[32];
    codes_on(scales.line(j), x + 32 * j, 31, codes);
    put_nibbles(codes, j, b.qs);
    for (int i = 0; i < 32; ++i)
      b.qh[i] = static_cast<std::uint8_t>(b.qh[i] | (codes[i] >> 4) << j);
  }
}

void quantize_block(const float* x, BlockQ6_K& b) {
  std::memset(&b, 0, sizeof b);
  float wanted[16];
  for (int j = 0; j < 16; ++j) wanted[j] = best_scale(x + 16 * j);
  const float extreme = *std::max_element(
      wanted, wanted + 16, [](float p, float q) { return std::fabs(p) < std::fabs(q); });
  b.d = half_reaching(extreme / -128);
  const float d = half_to_float(b.d);
  for (int j = 0; j < 16; ++j) {
    const int scale = round_scale(wanted[j], d, x + 16 * j);
    b.scales[j] = static_cast<std::int8_t>(scale);
    int codes[16];
    signed_codes(d * static_cast<float>(scale), x + 16 * j, codes);
    for (int i = 0; i < 16; ++i) put_six_bits(codes[i], 16 * j + i, b);
  }
}

}  // namespace herd::quant
