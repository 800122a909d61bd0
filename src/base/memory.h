// How much memory the machine has, has left, and this process uses. In bytes.
#pragma once

#include <cstdint>
#include <string>

namespace herd {

/// What this process may use in all: the machine's memory or its cgroup's limit, whichever is
/// lower. 0 when the system does not say.
std::int64_t total_memory();
/// What it could still take without swapping, by the same rule. 0 when the system does not say.
std::int64_t available_memory();
/// Resident memory of this process: the most so far, and now. 0 when the system does not say.
std::int64_t peak_rss();
std::int64_t current_rss();

/// Bytes of the largest cache a core has; a guess of 8 MiB where the system does not say.
std::int64_t last_level_cache();

/// Memory of a cgroup; `limited` is false when nothing bounds it.
struct MemoryBounds {
  bool limited = false;
  std::int64_t total = 0;
  std::int64_t available = 0;
};
/// The tightest bounds of this process's cgroup (v1 or v2) and those above it. `root` stands before
/// /proc and /sys: empty outside of tests.
MemoryBounds cgroup_memory(const std::string& root);
/// A "Name:   123 kB" line of a /proc file, in bytes; -1 if the file or the line is absent.
std::int64_t proc_kilobytes(const std::string& path, const std::string& name);

}  // namespace herd
