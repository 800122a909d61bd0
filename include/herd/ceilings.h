// What this machine can do, measured: the yardsticks a benchmark's figures are shares of.
#pragma once

#include "herd/status.h"

namespace herd {

struct MeasuredCeilings {
  double read_bytes_per_second = 0;     // reading memory far larger than any cache
  double flops_per_second = 0;          // CPU: independent f32 multiply-adds, two operations each;
                                        // cuda: herd's own product of 8192 x 8192 halves
  double integer_flops_per_second = 0;  // CPU: products of codes with inputs in three digits, as
                                        // many operations as in f32; cuda: 0
};

/// Takes about a second and 512 MiB. `threads` 0: as many as the machine has cores. The best of
/// five runs of each. Run it when nothing else does.
MeasuredCeilings measure_ceilings(int threads);
/// The same of the CUDA device, with 2 GiB of its memory. Errors: as making the backend.
Result<MeasuredCeilings> measure_cuda_ceilings();

}  // namespace herd
