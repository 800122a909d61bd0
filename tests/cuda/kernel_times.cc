// Times of every kernel of a CUDA program, from the driver's own records. Not part of the build:
//   g++ -std=c++20 -O2 -shared -fPIC -I$CUDA/include -o kernel_times.so kernel_times.cc -lcupti
//   CUDA_INJECTION64_PATH=./kernel_times.so herd bench -m M --device cuda -p 512 -n 24 -b 32
// Prints a line per kernel and grid when the program ends: its share of the time line, how often it
// ran, what it added to the time line and how long it ran, in microseconds. Kernels overlap, so one
// counts only for what lies behind the end of all before it. KERNEL_TIMES_LAST: how many of the
// last kernels to look at.
#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

struct Record {
  std::string name;
  std::uint64_t start, end;  // ns
  int blocks;
};
std::vector<Record> records;  // of the driver's one thread that hands buffers over

void take_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most) {
  *size = std::size_t{8} << 20, *most = 0;
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, *size));
}

void give_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto* k = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
    records.push_back(
        {k->name != nullptr ? k->name : "?", k->start, k->end, k->gridX * k->gridY * k->gridZ});
  }
  std::free(buffer);
}

std::string readable(const Record& r) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(r.name.c_str(), nullptr, nullptr, &status);
  std::string name = demangled != nullptr ? demangled : r.name;
  std::free(demangled);
  return name.substr(0, 90) + " grid " + std::to_string(r.blocks);
}

struct Sum {
  long count = 0;
  double added = 0, ran = 0;  // ns
};

void report() {
  cuptiActivityFlushAll(1);
  const char* limit = std::getenv("KERNEL_TIMES_LAST");
  const std::size_t last = limit != nullptr ? std::strtoul(limit, nullptr, 10) : 2700;
  const auto by_start = [](const Record& a, const Record& b) { return a.start < b.start; };
  std::sort(records.begin(), records.end(), by_start);
  if (records.size() > last)
    records.erase(records.begin(), records.end() - static_cast<std::ptrdiff_t>(last));
  if (records.empty()) return;
  const std::uint64_t first = records.front().start;
  std::uint64_t end = first, idle = 0;
  std::map<std::string, Sum> sums;
  for (const Record& r : records) {
    Sum& s = sums[readable(r)];
    ++s.count, s.ran += static_cast<double>(r.end - r.start);
    if (r.start > end) idle += r.start - end;
    if (r.end > end) s.added += static_cast<double>(r.end - std::max(end, r.start)), end = r.end;
  }
  const auto whole = static_cast<double>(end - first);
  std::fprintf(stderr, "%zu kernels in %.1f us, none running in %.1f\n", records.size(),
               whole * 1e-3, static_cast<double>(idle) * 1e-3);
  std::vector<std::pair<std::string, Sum>> order(sums.begin(), sums.end());
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.second.added > b.second.added; });
  for (const auto& [name, s] : order)
    std::fprintf(stderr, "%5.1f %% %6ld times, adds %8.2f us, runs %8.2f us  %s\n",
                 100 * s.added / whole, s.count, s.added / static_cast<double>(s.count) * 1e-3,
                 s.ran / static_cast<double>(s.count) * 1e-3, name.c_str());
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(take_buffer, give_buffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  std::atexit(report);
  return 1;
}
