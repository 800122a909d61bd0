#include "base/memory.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

namespace herd {
namespace {

namespace fs = std::filesystem;

// A pretended root folder holding /proc and /sys files.
class Cgroup : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "herd-memory-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void expect(std::int64_t total, std::int64_t available) {
    const MemoryBounds bounds = cgroup_memory(root_);
    EXPECT_TRUE(bounds.limited);
    EXPECT_EQ(bounds.total, total);
    EXPECT_EQ(bounds.available, available);
  }
  std::string root_;
};

TEST_F(Cgroup, AbsentMeansUnlimited) {
  EXPECT_FALSE(cgroup_memory(root_).limited);
}

TEST_F(Cgroup, V2CountsFileCacheAsAvailable) {
  write("/proc/self/cgroup", "0::/\n");
  write("/sys/fs/cgroup/memory.max", "1000000\n");
  write("/sys/fs/cgroup/memory.current", "400000\n");
  write("/sys/fs/cgroup/memory.stat", "anon 300000\ninactive_file 50000\n");
  expect(1000000, 650000);
}

TEST_F(Cgroup, V2TakesTheTightestOnTheWayUp) {
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  write("/sys/fs/cgroup/a/b/memory.current", "10\n");
  write("/sys/fs/cgroup/a/memory.max", "5000\n");
  write("/sys/fs/cgroup/a/memory.current", "1000\n");
  write("/sys/fs/cgroup/memory.max", "9000\n");
  write("/sys/fs/cgroup/memory.current", "8000\n");
  expect(5000, 1000);
}

TEST_F(Cgroup, V2WithoutALimit) {
  write("/proc/self/cgroup", "0::/a\n");
  write("/sys/fs/cgroup/a/memory.max", "max\n");
  EXPECT_FALSE(cgroup_memory(root_).limited);
}

TEST_F(Cgroup, V1FindsTheMemoryController) {
  write("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/abc\n0::/\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "8000\n");  // as a container sees it
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "9000\n");
  write("/sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 500\n");
  expect(8000, 0);
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_FALSE(cgroup_memory(root_).limited);
}

TEST_F(Cgroup, ProcLines) {
  write("/proc/meminfo", "MemTotalX: 5 kB\nMemTotal:       2048 kB\nBad: x kB\n");
  EXPECT_EQ(proc_kilobytes(root_ + "/proc/meminfo", "MemTotal"), 2048 * 1024);
  EXPECT_EQ(proc_kilobytes(root_ + "/proc/meminfo", "Bad"), -1);
  EXPECT_EQ(proc_kilobytes(root_ + "/proc/meminfo", "Absent"), -1);
  EXPECT_EQ(proc_kilobytes(root_ + "/proc/none", "MemTotal"), -1);
}

TEST(Memory, ThisMachineSaysSomethingSane) {
  EXPECT_GT(total_memory(), std::int64_t{64} << 20);
  EXPECT_GT(available_memory(), 0);
  EXPECT_LE(available_memory(), total_memory());
  EXPECT_GE(last_level_cache(), std::int64_t{256} << 10);
  EXPECT_LE(last_level_cache(), std::int64_t{4} << 30);
}

TEST(Memory, ResidentMemoryFollowsWhatIsTouched) {
  constexpr std::int64_t kBytes = std::int64_t{64} << 20;
  const std::int64_t before = current_rss();
  EXPECT_GT(before, 0);
  const std::vector<char> touched(static_cast<std::size_t>(kBytes), 1);
  EXPECT_GT(current_rss(), before + kBytes * 3 / 4) << touched.back();
  EXPECT_GE(peak_rss(), before + kBytes * 3 / 4);
}

}  // namespace
}  // namespace herd
