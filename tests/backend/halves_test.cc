#include "backend/cpu/halves.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace herd::cpu {
namespace {

TEST(TaskHalves, AreMadeWhereHalfOfTheThreadsWouldHaveOneTaskMore) {
  EXPECT_EQ(TaskHalves(3, 2).split, 1);
  EXPECT_EQ(TaskHalves(6, 4).split, 2);
  EXPECT_EQ(TaskHalves(15, 6).split, 3);
  for (const auto& [tasks, threads] :
       {std::pair{0, 2}, {1, 2}, {2, 2}, {4, 2}, {2, 4}, {5, 4}, {7, 4}, {8, 1}, {4, 3}})
    EXPECT_EQ(TaskHalves(tasks, threads).split, 0) << tasks << " on " << threads;
}

TEST(TaskHalves, GiveEachThreadAsMuchAndEachTaskOnce) {
  for (int threads = 2; threads <= 16; threads += 2)
    for (int tasks = threads + threads / 2; tasks < 100; tasks += threads) {
      SCOPED_TRACE(std::to_string(tasks) + " on " + std::to_string(threads));
      const TaskHalves halves(tasks, threads);
      ASSERT_EQ(halves.split, threads / 2);
      ASSERT_EQ(halves.units() % threads, 0);
      const int each = halves.units() / threads;
      std::map<int, std::vector<AttentionPart>> parts;
      for (int unit = 0; unit < halves.units(); ++unit) {
        const TaskHalves::Unit u = halves.at(unit);
        parts[u.task].push_back(u.part);
        if (u.part == AttentionPart::whole) continue;
        // Scores are made at once, values come last: the one thread need not wait for the other.
        EXPECT_EQ(unit % each, u.part == AttentionPart::scores ? 0 : each - 1);
        EXPECT_EQ(u.task, tasks - halves.split + u.half);
      }
      ASSERT_EQ(parts.size(), static_cast<std::size_t>(tasks));
      for (const auto& [task, of] : parts) {
        using enum AttentionPart;
        EXPECT_EQ(of,
                  task < tasks - halves.split ? std::vector{whole} : std::vector({values, scores}))
            << task;
      }
    }
}

}  // namespace
}  // namespace herd::cpu
