// Runs a fuzz target without libFuzzer: every file given, then N seeded mutations of each.
// Usage: fuzz_x [-runs=N] [-seed=S] FILE...
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {
using Bytes = std::vector<std::uint8_t>;

Bytes load(const char* path) {
  std::ifstream in(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(in), {});
}

/// Mutations favour the front of the input, where headers are.
std::size_t pick(std::mt19937_64& random, std::size_t size) {
  const std::size_t reach = random() % 4 == 0 ? size : std::min<std::size_t>(size, 8192);
  return random() % reach;
}

void mutate_once(Bytes& bytes, std::mt19937_64& random) {
  if (bytes.empty()) return;
  static constexpr std::uint64_t kEdges[] = {
      0, 1, 0x7f, 0xff, 0x7fffffff, 0xffffffff, 1ull << 63, (1ull << 63) - 1, ~0ull, ~0ull - 31};
  const std::size_t at = pick(random, bytes.size());
  const std::size_t width =
      std::min<std::size_t>(bytes.size() - at, std::size_t{1} << random() % 4);
  const std::uint64_t edge = kEdges[random() % std::size(kEdges)];
  switch (random() % 5) {
    case 0: bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ (1u << random() % 8)); break;
    case 1: bytes[at] = static_cast<std::uint8_t>(random()); break;
    case 2: std::memcpy(bytes.data() + at, &edge, width); break;
    case 3:
      std::memmove(bytes.data() + at, bytes.data() + pick(random, bytes.size() - width + 1), width);
      break;
    default:
      bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                  bytes.begin() + static_cast<std::ptrdiff_t>(at + width));
  }
}

}  // namespace

int main(int argc, char** argv) {
  long runs = 0;
  std::uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "-runs=", 6) == 0) runs = std::strtol(argv[i] + 6, nullptr, 10);
    if (std::strncmp(argv[i], "-seed=", 6) == 0) seed = std::strtoull(argv[i] + 6, nullptr, 10);
  }
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] == '-') continue;
    const Bytes original = load(argv[i]);
    LLVMFuzzerTestOneInput(original.data(), original.size());
    std::mt19937_64 random(seed);
    for (long run = 0; run < runs; ++run) {
      Bytes bytes = original;
      for (std::uint64_t n = 1 + random() % 4; n > 0; --n) mutate_once(bytes, random);
      LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%s: %ld mutations, seed %llu\n", argv[i], runs,
                static_cast<unsigned long long>(seed));
  }
  return 0;
}
