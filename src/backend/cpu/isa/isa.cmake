# One file per instruction set. Only these files get wider flags than the baseline, and they are always
# optimised: unoptimised they would emit out-of-line copies of shared inline functions.
set(isa_dir ${CMAKE_CURRENT_LIST_DIR})
# They are left out of the sanitizers, which make them compile for many minutes: what they read is bounded by
# their callers, which are watched, and the op suite puts sentinels around what they write.
set(isa_common "-O2 -g0 -fno-sanitize=all -fno-math-errno -Wno-uninitialized -Wno-maybe-uninitialized")  # gcc 12's own headers
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(isa_files scalar.cc avx2.cc avxvnni.cc avx512.cc)
  set_source_files_properties(${isa_dir}/avx2.cc PROPERTIES COMPILE_FLAGS
    "${isa_common} -mavx2 -mfma -mf16c")
  set_source_files_properties(${isa_dir}/avxvnni.cc PROPERTIES COMPILE_FLAGS
    "${isa_common} -mavx2 -mavxvnni -mfma -mf16c")
  set_source_files_properties(${isa_dir}/avx512.cc PROPERTIES COMPILE_FLAGS
    "${isa_common} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(isa_files scalar.cc neon.cc neondot.cc)
  set_source_files_properties(${isa_dir}/neon.cc PROPERTIES COMPILE_FLAGS "${isa_common}")
  set_source_files_properties(${isa_dir}/neondot.cc PROPERTIES COMPILE_FLAGS
    "${isa_common} -march=armv8.2-a+dotprod")
else()
  set(isa_files scalar.cc)
endif()
set_source_files_properties(${isa_dir}/scalar.cc PROPERTIES COMPILE_FLAGS "${isa_common}")
foreach(file ${isa_files})
  target_sources(herd_backend PRIVATE ${isa_dir}/${file})
endforeach()
