// What a kernel's thread can ask of the emulated GPU: its place, barriers, collectives of its
// simdgroup, threadgroup memory. Every GPU thread of a threadgroup is a fiber; fibers switch only
// here. A mistake (threads waiting at different places, memory over the limit) ends the launch and
// comes back as the command buffer's error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace herd::metal::emulation {

inline constexpr std::uint32_t kSimdWidth = 32;
inline constexpr std::uint32_t kMaxThreads = 1024;        // of a threadgroup
inline constexpr std::size_t kThreadgroupMemory = 32768;  // bytes

using Place = std::source_location;

/// Results of all lanes at once: lanes[i] is what lane i handed over, null where `mask` has no bit.
/// Returns null, or what is wrong.
using Collective = const char* (*)(void* const* lanes, std::uint32_t mask);

/// Waits for the live lanes of the simdgroup, which must come to the same place; then `op` (if not
/// null) has run once. `fence`: memory written before is seen after.
void simd_rendezvous(void* value, Collective op, bool fence, const Place& place);
/// Waits for all threads of the threadgroup.
void threadgroup_rendezvous(bool fence, const Place& place);
std::uint32_t lane();
/// The same memory for every thread of the group that names `key`, filled with 0xFF at first.
void* threadgroup_array(const void* key, std::size_t bytes);
/// Ends the launch with this error.
[[noreturn]] void fail(const char* message);

}  // namespace herd::metal::emulation
