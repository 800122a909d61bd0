// What this machine can do, measured: the yardsticks a benchmark's figures are shares of.
#pragma once

namespace herd {

struct MeasuredCeilings {
  double read_bytes_per_second = 0;  // reading memory far larger than any cache
  double f32_flops_per_second = 0;   // independent f32 multiply-adds, two operations each
};

/// Takes about a second and 512 MiB. `threads` 0: as many as the machine has cores. The best of
/// five runs of each. Run it when nothing else does.
MeasuredCeilings measure_ceilings(int threads);

}  // namespace herd
