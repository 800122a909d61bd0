# Installs to an empty prefix, then builds and runs a program that knows of nothing else.
set(prefix ${BUILD}/install_test/prefix)
file(REMOVE_RECURSE ${BUILD}/install_test)

function(run)
  execute_process(COMMAND ${ARGV} OUTPUT_VARIABLE out ERROR_VARIABLE out RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGV}: ${status}\n${out}")
  endif()
  set(out "${out}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
run(${CMAKE_COMMAND} -S ${SOURCE}/consumer -B ${BUILD}/install_test/build -DCMAKE_PREFIX_PATH=${prefix}
  -DCMAKE_CXX_COMPILER=${CXX})
run(${CMAKE_COMMAND} --build ${BUILD}/install_test/build)
run(${BUILD}/install_test/build/consumer ${MODEL})
run(${prefix}/bin/herd --version)

file(GLOB_RECURSE pc ${prefix}/*/herd.pc)
get_filename_component(folder ${pc} DIRECTORY)
set(ENV{PKG_CONFIG_PATH} ${folder})
run(pkg-config --cflags --libs herd)
string(STRIP "${out}" flags)
separate_arguments(flags UNIX_COMMAND "${flags}")
run(${CXX} -std=c++20 ${SOURCE}/consumer/main.cc -o ${BUILD}/install_test/by_pkg_config ${flags})
run(${BUILD}/install_test/by_pkg_config ${MODEL})
file(REMOVE_RECURSE ${BUILD}/install_test)
