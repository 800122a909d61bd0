// From a JSON Schema to the automaton of the JSON texts that it allows (docs/json_schema.md).
#pragma once

#include <string_view>

#include "constrain/builder.h"
#include "herd/status.h"

namespace herd::constrain {

/// A part of what the schema allows: members in the order of `properties`, bounded numbers and
/// white space. Errors name the place in the schema: invalid_argument (no JSON, a keyword with a
/// wrong value, nothing is allowed), unsupported (a keyword, by name), out_of_range (size, depth,
/// number of states). Time and memory are bounded by Builder's limits. Any thread.
Result<Automaton> compile_schema(std::string_view schema, const Alphabet& alphabet);

}  // namespace herd::constrain
