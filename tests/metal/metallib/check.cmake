# The metallib that herd_metallib embeds, with an xcrun that stands for Xcode's; and none without one.
# cmake -DSOURCE_DIR=DIR -DWORK=DIR -DMETAL_CMAKE=FILE -DCXX=COMPILER -P check.cmake
function(embedded xcrun result)
  file(REMOVE_RECURSE ${WORK})
  file(WRITE ${WORK}/kernels.metal "kernel void nothing() {} // \"a; b\"\n")
  set(quiet OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${WORK}/build -G Ninja -DCMAKE_CXX_COMPILER=${CXX}
    -DMETAL_CMAKE=${METAL_CMAKE} -DSOURCE=${WORK}/kernels.metal ${xcrun} ${quiet})
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK}/build ${quiet})
  execute_process(COMMAND ${WORK}/build/show OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
  file(REMOVE_RECURSE ${WORK})
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

embedded(-DHERD_XCRUN=${SOURCE_DIR}/xcrun with)
if(NOT with STREQUAL "-O2 -fno-fast-math\nkernel void nothing() {} // \"a; b\"\n")
  message(FATAL_ERROR "embedded by xcrun: '${with}'")
endif()
embedded(-DHERD_XCRUN=/bin/false without)  # no compiler behind it
if(NOT without STREQUAL "")
  message(FATAL_ERROR "embedded without a compiler: '${without}'")
endif()
