#include "herd/ceilings.h"

#include <gtest/gtest.h>

#include "base/memory.h"

namespace herd {
namespace {

// Memory that was never written is one page of zeros: reading it shows a cache's speed.
TEST(Ceilings, ReadsMemoryThatIsThere) {
  const std::int64_t before = peak_rss();
  const MeasuredCeilings found = measure_ceilings(1);
  EXPECT_GT(peak_rss() - before, std::int64_t{400} << 20);
  EXPECT_GT(found.read_bytes_per_second, 1e8);
  EXPECT_GT(found.flops_per_second, 1e8);
  EXPECT_GT(found.integer_flops_per_second, 1e8);
}

}  // namespace
}  // namespace herd
