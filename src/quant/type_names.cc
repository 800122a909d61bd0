// Names of every tensor type number GGUF has given out, so that a refusal can name what it refuses.
#include <iterator>

#include "quant/types.h"

namespace herd::quant {
namespace {

/// By number, from 0 on without a gap.
constexpr std::string_view kNames[] = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",    "NVFP4",    "Q1_0",
};
static_assert(std::size(kNames) == 42);

constexpr bool names_agree() {
  for (const TypeInfo& info : kTypes)
    if (kNames[static_cast<std::uint32_t>(info.type)] != info.name) return false;
  return true;
}
static_assert(names_agree());

}  // namespace

std::string_view gguf_type_name(std::uint32_t gguf_type) {
  return gguf_type < std::size(kNames) ? kNames[gguf_type] : std::string_view();
}

}  // namespace herd::quant
