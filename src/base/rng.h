// Random numbers as a function of (seed, position): no state, so nobody's draw depends on
// another's.
#pragma once

#include <cstdint>

namespace herd {

/// 64 random bits: splitmix64's finaliser over a Weyl sequence keyed by the seed (Steele et al.
/// 2014).
constexpr std::uint64_t counter_bits(std::uint64_t seed, std::uint64_t position) {
  auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  };
  return mix(mix(seed + 0x9e3779b97f4a7c15ull) + (position + 1) * 0x9e3779b97f4a7c15ull);
}
/// Uniform in [0, 1), 53 bits.
constexpr double counter_uniform(std::uint64_t seed, std::uint64_t position) {
  return static_cast<double>(counter_bits(seed, position) >> 11) * 0x1.0p-53;
}

}  // namespace herd
