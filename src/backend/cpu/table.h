// The kernels of one instruction set as a table of functions; cpu.cc picks a table once and shares
// the work out between threads. Everything here is plain data: no kernel knows of threads or
// batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "herd/types.h"
#include "quant/types.h"

namespace herd::cpu {

inline constexpr int kChunk = 256;  // inputs (or keys) per accumulator: docs/numerics.md
inline constexpr int kFusedSizes[] = {1, 2, 4, 8, 16};  // row counts a fused kernel may exist for
inline constexpr int kFusedKinds = static_cast<int>(std::size(kFusedSizes));
inline constexpr int kPackedFused = 8;  // from this size on, fused kernels take packed inputs
inline constexpr int kFetchRows = 2;  // from here on products leave time to ask for something else
inline constexpr int kMaxTileRows = 12;  // most rows of a tile in any table
inline constexpr int kRowBlock = 240;    // rows that share one unpacking: a multiple of every tile
inline constexpr int kCodedRows = 64;    // most rows of a run that a coded kernel takes at once
inline constexpr int kMaxHeadSize = 512;
inline constexpr int kTypeCount = static_cast<int>(std::size(quant::kTypes));

/// Position of a type in quant::kTypes, which holds them all.
constexpr int type_index(quant::Type type) {
  int i = 0;
  while (quant::kTypes[i].type != type) ++i;
  return i;
}

/// Memory that will be read soon, stretch after stretch: kernels ask for some of its lines as they
/// go.
struct Stretch {
  const std::byte *at, *end;
};
struct Fetch {
  const std::byte *at, *end;   // of the one under way
  const Stretch *next, *last;  // those after it
};
/// Makes sure that something is left of the stretch under way; false if all are used up. What was
/// asked for past an end counts for the next stretch, so that a reader stays as far ahead. Always
/// inlined: kernels' files have instructions that other files must not get.
[[gnu::always_inline]] inline bool goes_on(Fetch& f) {
  if (f.at < f.end) return true;
  if (f.next == f.last) return false;
  f.at = f.next->at + (f.at - f.end);
  f.end = f.next->end;
  ++f.next;
  return true;
}

// ---- weights of codes: every type with scales ----

/// A run of rows as coded kernels take them: 32 inputs ("a group") of all rows, then the next 32.
/// Inputs are integers of 21 bits with a power of two for each group, cut into three signed digits
/// of base 128, so that their products with codes are exact sums of products of bytes:
/// docs/numerics.md, `round`.
inline constexpr int kRoundGroup = 32;
inline constexpr int kSumGroups[] = {16, 32};  // inputs that share a weight's scale
inline constexpr int kSumSizes = static_cast<int>(std::size(kSumGroups));
struct RoundedRun {
  std::int8_t* digits;  // [groups][rows][32 / 4][low, middle, high, none][4 inputs]
  float* scales;        // [groups][rows]
  // For each of kSumGroups, [columns / it][rows]:
  float* sums[kSumSizes];         // of the rounded inputs, which mins are multiplied with
  std::int32_t* less[kSumSizes];  // [..][2]: minus the sums of high and middle digits as one
                                  // integer, and of low digits, for codes kept with an offset
};
/// Which of a run's sums are wanted, for each of kSumGroups.
struct GroupSums {
  bool sums[kSumSizes], less[kSumSizes];
};
/// Rounds groups of one row of a run.
struct RoundArgs {
  const float* x;           // [columns], the row
  std::int32_t first, end;  // groups
  std::int32_t row, rows;   // of the run
  RoundedRun run;
  GroupSums wanted;  // beside digits and scales
};

/// Rows of a run against panels. Codes are decoded once for all rows.
struct CodedArgs {
  const std::byte* panels;  // the matrix: pack.h
  std::int64_t panel_bytes;
  std::int32_t first_panel, n_panels;  // both even: whole pairs
  std::int32_t columns;
  RoundedRun x;
  std::int32_t rows;  // of the run, 1..kCodedRows
  float* out;         // [rows][outputs]
  std::int32_t outputs;
  bool add;
  Fetch* weights;  // or null: as many bytes are asked for as are read
  Fetch* fetch;    // or null: what else to ask for on the way, from kFetchRows rows on
};

// ---- weights that are values: F32, F16, BF16 ----

/// Few rows against a run of panels: weights are used in registers.
struct FusedArgs {
  const std::byte* panels;  // the matrix: pack.h
  std::int64_t panel_bytes;
  std::int32_t first_panel, n_panels;  // both even: whole pairs
  std::int32_t columns;
  const float* x;  // [rows][columns]; from kPackedFused rows on [columns][rows]
  float* out;      // [rows][outputs]
  std::int32_t outputs;
  bool add;
  Fetch* weights;  // or null: as many bytes are asked for as are read
  Fetch* fetch;    // or null: what else to ask for on the way, from kFetchRows rows on
};

/// A chunk of one panel as floats.
struct UnpackedPanel {
  float values[kChunk][16];
};
/// Inputs [k0, k0 + n) of a panel.
using UnpackFn = void (*)(const std::byte* panel, std::int32_t k0, std::int32_t n,
                          UnpackedPanel& to);

/// One tile: `rows` rows (packed [n][rows]) times neighbouring panels, one chunk of inputs.
struct TileArgs {
  const UnpackedPanel* panels;
  const float* x;  // [n][rows]
  std::int32_t n;  // inputs in this chunk, <= kChunk
  float* total;    // [rows][panels * 16] +=
  Fetch* fetch;    // or null
};

/// The two halves of attention: each reads half of the memory.
enum class AttentionPart { whole, scores, values };

/// Up to tile_rows queries of one sequence and one kv head against that head's keys and values.
struct AttentionTileArgs {
  AttentionPart part;
  const float* q;  // [head_size][queries]
  std::int32_t queries;
  const std::int32_t* n_keys;  // [queries] keys each query sees
  std::int32_t max_keys;       // the largest of them
  const std::int32_t* pages;   // of this sequence
  std::int32_t page_size;      // a multiple of 32
  // This layer and head in page 0: keys [head_size][page_size], then, if of 16 bits, their scales
  // [page_size].
  const std::byte* keys;
  const std::byte* values;                        // [page_size][value_stride]
  std::int64_t key_page_bytes, value_page_bytes;  // from one page to the next
  std::int32_t head_size, value_stride;
  KvType type;
  float scale;
  float* scores;              // scratch [queries][score_stride]; left by `scores` for `values`
  float* sums;                // [queries] of their exponentials, likewise
  std::int64_t score_stride;  // >= max_keys rounded up to 32
  float* out[kMaxTileRows];   // [head_size] each
};

struct RowNormArgs {
  const float* x;
  const float* weight;
  float* out;
  std::int32_t columns;
  float epsilon;
};

struct KernelTable {
  Isa isa;
  int tile_rows;   // rows of the largest tile
  int fused_rows;  // up to this many rows the fused kernels are the faster ones

  // Null where a type's weights are not codes, and for the others:
  void (*coded_row[kTypeCount])(const CodedArgs&);   // one row
  void (*coded_rows[kTypeCount])(const CodedArgs&);  // any number
  void (*round)(const RoundArgs&);
  // Null where they are:
  void (*fused[kTypeCount][kFusedKinds])(
      const FusedArgs&);  // by kFusedSizes; null past the largest
  UnpackFn unpack[kTypeCount];
  void (*tile[2][kMaxTileRows])(const TileArgs&);  // [panels - 1][rows - 1]; null past tile_rows
  int tile_panels;                                 // panels per tile that exist: 1 or 2

  void (*attention[kMaxTileRows])(const AttentionTileArgs&);  // [queries - 1]
  void (*rms_norm)(const RowNormArgs&);
  void (*rope)(float* head, const float* table, std::int32_t rope_size);
  void (*swiglu)(const float* gate, const float* up, float* out, std::int64_t n);
  void (*add)(const float* a, const float* b, float* out, std::int64_t n);
  float (*row_max)(const float* x, std::int32_t n);
  float (*row_exp_sum)(float* x, float max, std::int32_t n);  // x = exp(x - max); the sum
  void (*row_divide)(float* x, float by, std::int32_t n);
  /// Dense stages: s_j = chain(d, fma(q[d], k_j[d])) * scale and sums over keys in chunks.
  float (*dot)(const float* a, const float* b, std::int32_t n, float scale);
  void (*weighted_sum)(const float* weights, const float* v, std::int64_t v_stride,
                       std::int32_t keys, std::int32_t n, float* out);
  void (*to_half)(const float* x, std::uint16_t* out, std::int32_t n);
  /// x as 16-bit integers; returns their scale. NaN if any x is not finite.
  float (*to_int16)(const float* x, std::uint16_t* out, std::int32_t n);
  /// Read rate: reads `n` floats, a multiple of 128, and returns something that depends on them.
  float (*read)(const float* x, std::int64_t n);
  /// Floating-point rate: runs `n` independent fma chains, returns the operations done.
  std::int64_t (*burn)(std::int64_t n, float* sink);
  /// The same of products of codes with inputs of three digits, counted as in f32.
  std::int64_t (*burn_integers)(std::int64_t n, float* sink);
};

const KernelTable& scalar_table();
// Present only in builds for that architecture; null otherwise or when the machine lacks it.
const KernelTable* avx2_table();
const KernelTable* avxvnni_table();
const KernelTable* avx512_table();
const KernelTable* neon_table();
const KernelTable* neondot_table();

/// The tables this build and this machine can run, widest first.
std::vector<const KernelTable*> present_tables();
/// The first of them.
const KernelTable& widest_table();

}  // namespace herd::cpu
