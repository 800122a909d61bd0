# cmake [-DINPUT=FILE] -DOUTPUT=FILE -P embed.cmake: C++ that holds a metallib's bytes, or none.
cmake_minimum_required(VERSION 3.25)
set(bytes "")
if(INPUT)
  file(READ ${INPUT} bytes HEX)
  string(REGEX REPLACE "(..)" "std::byte{0x\\1}," bytes "${bytes}")
endif()
if(bytes)
  set(body "static constexpr std::byte kBytes[] = {${bytes}};\n  return kBytes;")
else()
  set(body "return {};")
endif()
file(CONFIGURE OUTPUT ${OUTPUT} @ONLY CONTENT "// Generated.
#include <cstddef>
#include <span>
namespace herd::metal {
std::span<const std::byte> kernel_library();
std::span<const std::byte> kernel_library() {
  @body@
}
}  // namespace herd::metal
")
