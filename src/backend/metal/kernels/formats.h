// Weight types: the value of element i of a row of GGUF blocks (src/quant/dequantize.cc), in f32,
// exact. Blocks are read byte by byte: their sizes are odd multiples of two.
#pragma once

inline float half_at(device const uchar* b) {
  return float(as_type<half>(ushort(uint(b[0]) | uint(b[1]) << 8)));
}
inline uint low_nibble(device const uchar* b, uint i) {  // 16 low nibbles, then 16 high ones
  return i < 16 ? uint(b[i]) & 15u : uint(b[i - 16]) >> 4;
}
inline uint fifth_bit(device const uchar* qh, uint i) {
  return (uint(qh[i / 8]) >> (i % 8) & 1u) << 4;
}

struct F32 {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + 4 * ulong(i);
    return as_type<float>(uint(b[0]) | uint(b[1]) << 8 | uint(b[2]) << 16 | uint(b[3]) << 24);
  }
};
struct F16 {
  static float at(device const uchar* row, uint i) { return half_at(row + 2 * ulong(i)); }
};
struct BF16 {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + 2 * ulong(i);
    return as_type<float>(uint(b[0]) << 16 | uint(b[1]) << 24);
  }
};
struct Q4_0 {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 32) * 18;
    return half_at(b) * (float(low_nibble(b + 2, i % 32)) - 8.0f);
  }
};
struct Q4_1 {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 32) * 20;
    return half_at(b) * float(low_nibble(b + 4, i % 32)) + half_at(b + 2);
  }
};
struct Q5_0 {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 32) * 22;
    const uint code = low_nibble(b + 6, i % 32) | fifth_bit(b + 2, i % 32);
    return half_at(b) * (float(code) - 16.0f);
  }
};
struct Q5_1 {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 32) * 24;
    const uint code = low_nibble(b + 8, i % 32) | fifth_bit(b + 4, i % 32);
    return half_at(b) * float(code) + half_at(b + 2);
  }
};
struct Q8_0 {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 32) * 34;
    return half_at(b) * float(as_type<char>(b[2 + i % 32]));
  }
};

/// Bits [shift, shift + 2) of sub-block j's value l: each half of a block of 256 keeps four planes
/// of 32 values, two sub-blocks of 16 to a plane.
inline uint pair_code(device const uchar* qs, uint j, uint l) {
  return uint(qs[j / 8 * 32 + j % 2 * 16 + l]) >> (j % 8 / 2 * 2) & 3u;
}
struct Q2_K {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 256) * 84;
    const uint j = i % 256 / 16;
    const float scale = half_at(b + 80) * float(uint(b[j]) & 15u);
    const float low = half_at(b + 82) * float(uint(b[j]) >> 4);
    return scale * float(pair_code(b + 16, j, i % 16)) - low;
  }
};
struct Q3_K {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 256) * 110;
    const uint j = i % 256 / 16, l = i % 16;
    device const uchar* s = b + 96;
    const uint low = j < 8 ? uint(s[j]) & 15u : uint(s[j - 8]) >> 4;
    const uint high = uint(s[8 + j % 4]) >> (2 * (j / 4)) & 3u;
    const float scale = half_at(b + 108) * (float(low | high << 4) - 32.0f);
    const uint code = pair_code(b + 32, j, l) + (uint(b[j % 2 * 16 + l]) >> (j / 2) & 1u) * 4u;
    return scale * (float(code) - 4.0f);
  }
};
/// Scale and min j of Q4_K and Q5_K: 6 bits each in 12 bytes.
inline float k4_scale(device const uchar* s, uint j) {
  return float(j < 4 ? uint(s[j]) & 63u : (uint(s[j + 4]) & 15u) | (uint(s[j - 4]) >> 6) << 4);
}
inline float k4_min(device const uchar* s, uint j) {
  return float(j < 4 ? uint(s[j + 4]) & 63u : uint(s[j + 4]) >> 4 | (uint(s[j]) >> 6) << 4);
}
struct Q4_K {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 256) * 144;
    const uint j = i % 256 / 32;
    const float scale = half_at(b) * k4_scale(b + 4, j);
    const float low = half_at(b + 2) * k4_min(b + 4, j);
    const uint code = uint(b[16 + j / 2 * 32 + i % 32]) >> (j % 2 * 4) & 15u;
    return scale * float(code) - low;
  }
};
struct Q5_K {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 256) * 176;
    const uint j = i % 256 / 32;
    const float scale = half_at(b) * k4_scale(b + 4, j);
    const float low = half_at(b + 2) * k4_min(b + 4, j);
    const uint code = (uint(b[48 + j / 2 * 32 + i % 32]) >> (j % 2 * 4) & 15u) |
                      (uint(b[16 + i % 32]) >> j & 1u) << 4;
    return scale * float(code) - low;
  }
};
struct Q6_K {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 256) * 210;
    const uint j = i % 256 / 16, part = j % 8 / 2, l = j % 2 * 16 + i % 16;
    const uint low = uint(b[j / 8 * 64 + part % 2 * 32 + l]) >> (part / 2 * 4) & 15u;
    const uint high = uint(b[128 + j / 8 * 32 + l]) >> (part * 2) & 3u;
    const float scale = half_at(b + 208) * float(as_type<char>(b[192 + j]));
    return scale * (float(low | high << 4) - 32.0f);
  }
};

constant char kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                1,    13,   25,  38,  53,  69,  89,  113};
struct IQ4_NL {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 32) * 18;
    return half_at(b) * float(kIq4Values[low_nibble(b + 2, i % 32)]);
  }
};
struct IQ4_XS {
  static float at(device const uchar* row, uint i) {
    device const uchar* b = row + ulong(i / 256) * 136;
    const uint g = i % 256 / 32;
    const uint low = uint(b[4 + g / 2]) >> (g % 2 * 4) & 15u;
    const uint high = (uint(b[2]) | uint(b[3]) << 8) >> (2 * g) & 3u;
    const float scale = half_at(b) * (float(low | high << 4) - 32.0f);
    return scale * float(kIq4Values[low_nibble(b + 8 + 16 * g, i % 32)]);
  }
};
