// How the rows of a product are cut for the kernels that take several side by side.
#pragma once

#include <cstdint>

#include "backend/cpu/table.h"

namespace herd::cpu {

/// Rows [first, first + rows) of tile `t` when n rows are split as evenly as tiles of `most` allow.
struct TileRows {
  std::int32_t first, rows;
};
inline TileRows tile_rows(std::int32_t n, std::int32_t most, std::int32_t t) {
  const std::int32_t tiles = (n + most - 1) / most;
  const std::int32_t first = static_cast<std::int32_t>(std::int64_t{n} * t / tiles);
  return {first, static_cast<std::int32_t>(std::int64_t{n} * (t + 1) / tiles) - first};
}
inline std::int32_t tile_count(std::int32_t n, std::int32_t most) {
  return (n + most - 1) / most;
}

/// The largest of kFusedSizes that `table` has and `rows` more rows fill, as an index.
inline int fused_size(const KernelTable& table, std::int32_t rows) {
  int size = 0;
  while (size + 1 < kFusedKinds && kFusedSizes[size + 1] <= rows &&
         table.fused[0][size + 1] != nullptr)
    ++size;
  return size;
}

/// body(first row, size) for rows [0, rows) cut into the sizes of fused kernels, as indices.
template <class Body>
void for_fused_rows(const KernelTable& table, std::int32_t rows, const Body& body) {
  for (std::int32_t row = 0; row < rows;) {
    const int size = fused_size(table, rows - row);
    body(row, size);
    row += kFusedSizes[size];
  }
}

}  // namespace herd::cpu
