// Arguments of kernels: plain structs, the same for the host and for Metal.
#pragma once

#if !defined(__METAL_VERSION__) && !defined(HERD_MSL_LINT)
#include <cstdint>
#endif

namespace herd {
namespace args {

/// Sizes that host and kernels agree on.
enum {
  kTile = 8,              // rows and columns of a simdgroup matrix
  kInputs = 32,           // inputs that a threadgroup takes at a time
  kMaxSimdgroups = 4,     // of matmul and attention
  kFewRows = 8,           // rows of one tile while they all fit into it
  kManyRows = 32,         // rows of one tile otherwise
  kMaxHeadSize = 256,     // of attention
  kMaxHeadParts = 8,      // kMaxHeadSize / 32
  kElementThreads = 256,  // threads that work on elements on their own
  kChecksumGroups = 64
};

struct Embed {
  uint32_t rows, columns;
  int64_t row_bytes;
};
struct RmsNorm {
  uint32_t columns;
  float epsilon;
  uint32_t of_logit_rows;
  uint32_t unused;
};
struct Matmul {
  uint32_t rows, inputs, outputs;
  uint32_t add;  // out += products
  int64_t row_bytes;
};
struct Rope {
  uint32_t rows, heads, kv_heads, head_size, rope_size;
  uint32_t has_q, has_k, has_v, has_q_out;
  uint32_t unused;
};
struct Attention {
  uint32_t kv_heads, group, head_size, page_size;  // group: heads of one kv head
  float scale;
  uint32_t unused;
};
struct Elements {
  uint32_t count;
  uint32_t unused;
};
struct Scores {
  uint32_t batch, queries, keys, heads, kv_heads, head_size;
  float scale;
  uint32_t count;  // of results
};
struct Softmax {
  uint32_t columns;
  uint32_t count;  // rows * columns
};
/// How a row's id is chosen; core/batch.h's SamplingRow.
struct Sampling {
  float temperature, top_p, min_p;
  int32_t top_k;
  uint64_t seed;
  int64_t position;
};
struct Sample {
  uint32_t vocab;
  uint32_t unused;
};
struct Checksum {
  int64_t bytes;
};

/// A checksum is the sum of these over words of four bytes: one changed word always changes it.
inline uint32_t checked_word(uint32_t word, uint32_t index) {
  const uint32_t mixed = (word ^ (index * 0x9e3779b1u)) * 0x85ebca6bu;
  return mixed ^ (mixed >> 15);
}

static_assert(sizeof(Embed) == 16 && sizeof(RmsNorm) == 16 && sizeof(Matmul) == 24, "");
static_assert(sizeof(Rope) == 40 && sizeof(Attention) == 24 && sizeof(Elements) == 8, "");
static_assert(sizeof(Scores) == 32 && sizeof(Softmax) == 8 && sizeof(Sampling) == 32, "");
static_assert(sizeof(Sample) == 8 && sizeof(Checksum) == 8, "");

}  // namespace args
}  // namespace herd
