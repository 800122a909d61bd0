# Whether this build has the CUDA backend: HERD_CUDA ON, OFF or AUTO (where nvcc is found).
# Sets HERD_HAS_CUDA. Only the architectures of HERD_CUDA_ARCHS are compiled.
set(HERD_CUDA AUTO CACHE STRING "the CUDA backend: ON, OFF or AUTO (where nvcc is found)")
set(HERD_CUDA_ARCHS "90a-real" CACHE STRING "CUDA architectures, as in CMAKE_CUDA_ARCHITECTURES: 80-real;90a-real")

set(HERD_HAS_CUDA OFF)
if(HERD_CUDA AND NOT HERD_SANITIZE)
  if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
    set(ENV{PATH} "$ENV{PATH}:/usr/local/cuda/bin")  # where the toolkit's installers put it
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${HERD_CUDA_ARCHS})
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake older than the toolkit
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    find_package(CUDAToolkit REQUIRED)
    set(HERD_HAS_CUDA ON)
  elseif(NOT HERD_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "HERD_CUDA is ON and nvcc was not found; set CMAKE_CUDA_COMPILER")
  endif()
endif()
message(STATUS "herd: CUDA backend ${HERD_HAS_CUDA}")
