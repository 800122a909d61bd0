# Whether this build has the Metal backend: on macOS with Metal itself, on x86-64 Linux over the emulator.
# Both need Apple's metal-cpp headers (scripts/fetch-metal-cpp); HERD_METAL is ON, OFF or AUTO (where they
# are found). Sets HERD_HAS_METAL and HERD_METAL_EMULATION.
set(HERD_METAL AUTO CACHE STRING "the Metal backend: ON, OFF or AUTO (where metal-cpp is found)")
set(HERD_METAL_CPP "${PROJECT_SOURCE_DIR}/.cache/metal-cpp" CACHE PATH "metal-cpp's headers")

set(HERD_HAS_METAL OFF)
set(HERD_METAL_EMULATION OFF)
if(HERD_METAL)
  set(missing "")
  if(NOT EXISTS ${HERD_METAL_CPP}/Metal/Metal.hpp)
    set(missing "metal-cpp is not in ${HERD_METAL_CPP}; scripts/fetch-metal-cpp brings it")
  elseif(APPLE)
    set(HERD_HAS_METAL ON)
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    # metal-cpp uses blocks, which only clang knows: it compiles the one file that includes it.
    find_program(HERD_CLANG NAMES clang++ clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14)
    if(HERD_CLANG)
      set(HERD_HAS_METAL ON)
      set(HERD_METAL_EMULATION ON)
    else()
      set(missing "the emulator needs clang++ for metal-cpp's blocks")
    endif()
  else()
    set(missing "neither macOS nor x86-64 Linux")
  endif()
  if(missing AND NOT HERD_METAL STREQUAL "AUTO")
    message(FATAL_ERROR "HERD_METAL is ON: ${missing}")
  endif()
endif()
message(STATUS "herd: Metal backend ${HERD_HAS_METAL}, emulated ${HERD_METAL_EMULATION}")

# herd_metal_library(): the library herd_metal of src/backend/metal. Sets HERD_METAL_OBJECT to what
# TARGET_OBJECTS would leave out.
function(herd_metal_library)
  set(room ${PROJECT_SOURCE_DIR}/src/backend/metal)
  file(GLOB sources CONFIGURE_DEPENDS ${room}/*.cc)
  herd_metal_kernel_source(${CMAKE_BINARY_DIR}/metal_kernel_source.cc)
  herd_metallib(${CMAKE_BINARY_DIR}/metal_kernel_source.metal ${CMAKE_BINARY_DIR}/metal_kernel_library.cc)
  list(APPEND sources ${CMAKE_BINARY_DIR}/metal_kernel_source.cc ${CMAKE_BINARY_DIR}/metal_kernel_library.cc)
  if(HERD_METAL_EMULATION)
    file(GLOB emulation CONFIGURE_DEPENDS ${room}/emulation/*.cc)
    list(REMOVE_ITEM sources ${room}/device.cc)
    herd_metal_device_object(${room})
    set(HERD_METAL_OBJECT ${CMAKE_BINARY_DIR}/metal_device.o PARENT_SCOPE)
    add_library(herd_metal STATIC ${sources} ${emulation} ${CMAKE_BINARY_DIR}/metal_device.o)
    target_compile_definitions(herd_metal PRIVATE HERD_METAL_EMULATION=1)
    if(HERD_SANITIZE MATCHES "address")
      target_compile_definitions(herd_metal PRIVATE HERD_EMULATION_ASAN=1)
    elseif(HERD_SANITIZE MATCHES "thread")
      target_compile_definitions(herd_metal PRIVATE HERD_EMULATION_TSAN=1)
    endif()
    # The scheduler and the objects tell the sanitizers what they do; the kernels are watched.
    set_source_files_properties(${room}/emulation/fibers.cc PROPERTIES COMPILE_OPTIONS "-O2;-fno-sanitize=all")
    set_source_files_properties(${room}/emulation/objc.cc PROPERTIES
      COMPILE_OPTIONS "-fno-sanitize=all;-isystem${room}/emulation/include")
    set_source_files_properties(${room}/emulation/kernels.cc PROPERTIES
      COMPILE_OPTIONS "-O2;-Wno-attributes;-Wno-conversion;-Wno-shadow;-isystem${room}/emulation/include")
  else()
    add_library(herd_metal STATIC ${sources})
    set_source_files_properties(${room}/device.cc PROPERTIES COMPILE_OPTIONS "-isystem${HERD_METAL_CPP}")
    target_link_libraries(herd_metal PUBLIC "-framework Metal" "-framework Foundation" "-framework QuartzCore")
  endif()
  target_include_directories(herd_metal PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(herd_metal PUBLIC herd_quant)
endfunction()

# device.cc by clang, for metal-cpp's blocks.
function(herd_metal_device_object room)
  set(object ${CMAKE_BINARY_DIR}/metal_device.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${HERD_CLANG} -std=c++20 -O1 -g -fPIC -fblocks -Wall -Wextra -Werror
      -isystem ${HERD_METAL_CPP} -isystem ${room}/emulation/include
      -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}/include
      -MD -MF ${object}.d -c ${room}/device.cc -o ${object}
    DEPENDS ${room}/device.cc DEPFILE ${object}.d VERBATIM
    COMMENT "Building metal/device.cc with ${HERD_CLANG}")
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
endfunction()

# One text of all kernels, with the headers they share first: what newLibraryWithSource is given.
function(herd_metal_kernel_source output)
  set(folder ${PROJECT_SOURCE_DIR}/src/backend/metal/kernels)
  file(GLOB kernels CONFIGURE_DEPENDS ${folder}/*.metal)
  set(all "#include <metal_stdlib>\nusing namespace metal;\n")
  foreach(file ${folder}/args.h ${folder}/dialect.h ${folder}/formats.h ${kernels})
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    file(READ ${file} text)
    string(REGEX REPLACE "#pragma once\n|#include \"[^\n]*\n" "" text "${text}")
    string(APPEND all "${text}")
  endforeach()
  string(REGEX REPLACE "\\.cc$" ".metal" metal ${output})
  file(CONFIGURE OUTPUT ${metal} @ONLY CONTENT "${all}")
  file(CONFIGURE OUTPUT ${output} @ONLY CONTENT "// Generated from src/backend/metal/kernels.
#include <string_view>
namespace herd::metal {
std::string_view kernel_source();
std::string_view kernel_source() {
  return R\"metal(${all})metal\";
}
}  // namespace herd::metal
")
endfunction()

# herd_metallib(source output): `output` defines kernel_library(), the metallib that `xcrun metal` makes of
# `source`, or nothing where there is no such compiler: then kernels are compiled when a device is opened.
if(APPLE)
  find_program(HERD_XCRUN xcrun)
endif()
function(herd_metallib source output)
  set(status 1)
  if(HERD_XCRUN)  # Xcode has the compiler, its command line tools alone do not
    execute_process(COMMAND ${HERD_XCRUN} -sdk macosx metal --version RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
  endif()
  set(embed ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/embed.cmake)
  if(NOT status EQUAL 0)
    execute_process(COMMAND ${CMAKE_COMMAND} -DOUTPUT=${output} -P ${embed} COMMAND_ERROR_IS_FATAL ANY)
    return()
  endif()
  set(target "")
  if(CMAKE_OSX_DEPLOYMENT_TARGET)
    set(target -mmacosx-version-min=${CMAKE_OSX_DEPLOYMENT_TARGET})
  endif()
  add_custom_command(OUTPUT ${output}
    COMMAND ${HERD_XCRUN} -sdk macosx metal -O2 -fno-fast-math ${target} ${source} -o ${output}.metallib
    COMMAND ${CMAKE_COMMAND} -DINPUT=${output}.metallib -DOUTPUT=${output} -P ${embed}
    DEPENDS ${source} ${embed} VERBATIM COMMENT "Building the Metal kernels with ${HERD_XCRUN}")
endfunction()
