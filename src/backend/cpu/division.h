// How the matrices of a product are shared out between threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/table.h"

namespace herd::cpu {

inline constexpr int kMostMatrices = 3;  // that share their input

/// Matrices that are multiplied with the same input. `paired`: output i of all of them is wanted at
/// the same time; they are equally large.
struct Product {
  std::int32_t n = 0;
  MatrixId weights[kMostMatrices];
  bool paired = false;

  friend bool operator==(const Product&, const Product&) = default;
};

/// A matrix as pairs of panels: pack.h (the last ones may be padding).
struct Matrix {
  quant::Type type;
  std::int32_t rows, columns, panels;
  std::int64_t panel_bytes;
  std::byte* data;
  Product next = {};  // that followed the one which begins with this matrix, the last time

  const std::byte* panel(std::int32_t i) const { return panel_at(data, type, panel_bytes, i); }
};

/// A product cut into chunks of a pair of panels: those of one matrix after the other or, if
/// paired, the same panels of all of them.
struct Division {
  static constexpr std::int32_t kChunkPanels = kPairPanels;
  struct Run {
    std::int32_t weight, weights;  // the first matrix, and how many
    std::int32_t first, count;     // panels of each
  };
  std::int32_t n = 0, chunks = 0;
  std::int32_t grain = 1;  // chunks to hand to a thread at a time
  bool paired = false;
  const Matrix* matrices[kMostMatrices] = {};
  std::int32_t ends[kMostMatrices] = {};  // chunks up to a matrix and with it

  /// The grain is what `threads` threads need to balance, but `most` panels at most: enough to
  /// amortise the hand-out. REQUIRES: the matrices outlive it.
  Division(const Product& product, const Matrix* matrices, int threads, std::int32_t most);

  /// What chunks [chunk, end) have of the first one's matrix.
  Run run(int chunk, int end) const;
  /// body(run) for the runs that chunks [first, end) consist of.
  template <class Body>
  void for_each_run(int first, int end, const Body& body) const {
    while (first < end) {
      const Run r = run(first, end);
      body(r);
      first += r.count / kChunkPanels;
    }
  }
  /// Where a chunk's weights begin.
  const std::byte* begin(int chunk) const;
  /// Appends where the weights of chunks [first, end) stand, in the order of their use: at most
  /// `most` bytes, without the first `skip`.
  void stretches(int first, int end, std::int64_t skip, std::int64_t most,
                 std::vector<Stretch>& to) const;
};

}  // namespace herd::cpu
