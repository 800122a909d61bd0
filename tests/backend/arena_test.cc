#include "backend/cpu/arena.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>

namespace herd::cpu {
namespace {

bool all_are(const std::byte* p, std::int64_t n, int value) {
  for (std::int64_t i = 0; i < n; ++i)
    if (p[i] != std::byte(value)) return false;
  return true;
}

TEST(Arena, PiecesAreZeroedAlignedAndApart) {
  const std::uint32_t seed = 5;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  struct Piece {
    std::byte* at;
    std::int64_t bytes;
    int value;
  };
  Arena arena;
  std::vector<Piece> pieces;
  for (int step = 0; step < 2000; ++step) {
    if (random() % 4 == 0 && !pieces.empty()) {
      const std::size_t keep = random() % (pieces.size() + 1);
      for (std::size_t i = keep; i < pieces.size(); ++i)
        ASSERT_TRUE(all_are(pieces[i].at, pieces[i].bytes, pieces[i].value));
      pieces.resize(keep);
      arena.release_to(keep);
    } else {
      const std::int64_t bytes = random() % 50 == 0 ? std::int64_t{20} << 20 : random() % 100000;
      std::byte* at = arena.take(bytes);
      ASSERT_NE(at, nullptr);
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(at) % 64, 0u);
      ASSERT_TRUE(all_are(at, bytes, 0)) << "also where an older piece was";
      const int value = 1 + static_cast<int>(random() % 255);
      std::memset(at, value, static_cast<std::size_t>(bytes));
      pieces.push_back({at, bytes, value});
    }
    ASSERT_EQ(arena.pieces(), pieces.size());
  }
  for (const Piece& p : pieces) ASSERT_TRUE(all_are(p.at, p.bytes, p.value));
}

TEST(Arena, SaysWhenMemoryIsOut) {
  Arena arena;
  EXPECT_EQ(arena.take(std::int64_t{1} << 60), nullptr);
  EXPECT_EQ(arena.take(INT64_MAX), nullptr);
  EXPECT_EQ(arena.pieces(), 0u);
  EXPECT_NE(arena.take(1), nullptr);
}

}  // namespace
}  // namespace herd::cpu
