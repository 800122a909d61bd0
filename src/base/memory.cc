#include "base/memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string_view>

#include <unistd.h>

#ifdef __APPLE__
#include <mach/mach.h>
#include <sys/resource.h>
#include <sys/sysctl.h>
#endif

namespace herd {
namespace {

constexpr std::int64_t kGuessedCache = 8 << 20;

constexpr std::int64_t kUnlimited = std::int64_t{1} << 60;  // v1 writes a number near 2^63

// The number `text` starts with after blanks; -1 if there is none ("max") or it does not fit.
std::int64_t leading_number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && value >= 0 ? value : -1;
}

std::int64_t number_in(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) ? leading_number(line) : -1;
}

// The number after `name` and a separator in the first line that starts so.
std::int64_t field_in(const std::string& path, const std::string& name, char separator) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(name) && line.size() > name.size() && line[name.size()] == separator)
      return leading_number(std::string_view(line).substr(name.size() + 1));
  return -1;
}

// File names of one cgroup version.
struct CgroupFiles {
  const char *limit, *usage, *reclaimable;
};
constexpr CgroupFiles kV1 = {"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                             "total_inactive_file"};
constexpr CgroupFiles kV2 = {"/memory.max", "/memory.current", "inactive_file"};

void tighten(MemoryBounds& bounds, const std::string& folder, const CgroupFiles& files) {
  const std::int64_t limit = number_in(folder + files.limit);
  if (limit < 0 || limit >= kUnlimited) return;
  const std::int64_t usage = std::max<std::int64_t>(0, number_in(folder + files.usage));
  const std::int64_t cache =
      std::max<std::int64_t>(0, field_in(folder + "/memory.stat", files.reclaimable, ' '));
  const std::int64_t used = std::max<std::int64_t>(0, usage - cache);
  const std::int64_t available = std::max<std::int64_t>(0, limit - used);
  bounds.total = bounds.limited ? std::min(bounds.total, limit) : limit;
  bounds.available = bounds.limited ? std::min(bounds.available, available) : available;
  bounds.limited = true;
}

// A limit anywhere on the way up holds. A container may show only the mount's own folder, so the
// path's folders may be absent.
void tighten_upwards(MemoryBounds& bounds, const std::string& mount, std::string path,
                     const CgroupFiles& files) {
  while (!path.empty() && path != "/") {
    tighten(bounds, mount + path, files);
    path.resize(std::min(path.rfind('/'), path.size()));
  }
  tighten(bounds, mount, files);
}

bool lists_memory(std::string_view controllers) {
  while (!controllers.empty()) {
    const std::size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == "memory") return true;
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

}  // namespace

std::int64_t proc_kilobytes(const std::string& path, const std::string& name) {
  const std::int64_t kilobytes = field_in(path, name, ':');
  return kilobytes < 0 || kilobytes > kUnlimited / 1024 ? -1 : kilobytes * 1024;
}

MemoryBounds cgroup_memory(const std::string& root) {
  MemoryBounds bounds;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:memory:/path" or "0::/path"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty())
      tighten_upwards(bounds, root + "/sys/fs/cgroup", path, kV2);
    else if (lists_memory(controllers))
      tighten_upwards(bounds, root + "/sys/fs/cgroup/memory", path, kV1);
  }
  return bounds;
}

#ifdef __APPLE__

std::int64_t total_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? static_cast<std::int64_t>(pages) * size : 0;
}

std::int64_t available_memory() {
  vm_statistics64_data_t stats;
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&stats),
                        &count) != KERN_SUCCESS)
    return 0;
  const auto pages = static_cast<std::int64_t>(stats.free_count) + stats.inactive_count;
  return pages * sysconf(_SC_PAGESIZE);
}

std::int64_t peak_rss() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::int64_t>(usage.ru_maxrss) : 0;
}

std::int64_t current_rss() {
  mach_task_basic_info info{};
  mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
  if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, reinterpret_cast<task_info_t>(&info),
                &count) != KERN_SUCCESS)
    return 0;
  return static_cast<std::int64_t>(info.resident_size);
}

std::int64_t last_level_cache() {
  std::int64_t bytes = 0;
  for (const char* name : {"hw.l3cachesize", "hw.perflevel0.l2cachesize"}) {
    std::size_t size = sizeof(bytes);
    if (sysctlbyname(name, &bytes, &size, nullptr, 0) == 0 && bytes > 0) return bytes;
  }
  return kGuessedCache;
}

#else

std::int64_t last_level_cache() {
#ifdef _SC_LEVEL3_CACHE_SIZE  // of glibc
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return kGuessedCache;
}

std::int64_t total_memory() {
  const std::int64_t machine = proc_kilobytes("/proc/meminfo", "MemTotal");
  const MemoryBounds group = cgroup_memory("");
  if (machine < 0) return group.total;
  return group.limited ? std::min(machine, group.total) : machine;
}

std::int64_t available_memory() {
  const std::int64_t machine = proc_kilobytes("/proc/meminfo", "MemAvailable");
  const MemoryBounds group = cgroup_memory("");
  if (machine < 0) return group.available;
  return group.limited ? std::min(machine, group.available) : machine;
}

std::int64_t peak_rss() {
  return std::max<std::int64_t>(0, proc_kilobytes("/proc/self/status", "VmHWM"));
}

std::int64_t current_rss() {
  return std::max<std::int64_t>(0, proc_kilobytes("/proc/self/status", "VmRSS"));
}

#endif

}  // namespace herd
