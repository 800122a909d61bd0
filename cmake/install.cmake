# What `cmake --install` puts where: the library with its headers, a CMake package, a pkg-config file, the
# program.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS herd EXPORT herdTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/herd DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET herd_cli)
  install(TARGETS herd_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  find_package(Python3 COMPONENTS Interpreter)
  if(Python3_FOUND AND NOT CMAKE_CROSSCOMPILING)  # the manual page is made from the program's own help
    install(CODE "
      file(MAKE_DIRECTORY \"${PROJECT_BINARY_DIR}/man\")
      execute_process(COMMAND ${Python3_EXECUTABLE} -B ${PROJECT_SOURCE_DIR}/scripts/man.py
        $<TARGET_FILE:herd_cli> ${PROJECT_BINARY_DIR}/man/herd.1 COMMAND_ERROR_IS_FATAL ANY)")
    install(FILES ${PROJECT_BINARY_DIR}/man/herd.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  endif()
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/herd)
install(EXPORT herdTargets NAMESPACE herd:: DESTINATION ${package})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/herdConfig.cmake.in
  ${PROJECT_BINARY_DIR}/herdConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/herdConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/herdConfig.cmake ${PROJECT_BINARY_DIR}/herdConfigVersion.cmake
  DESTINATION ${package})

configure_file(${CMAKE_CURRENT_LIST_DIR}/herd.pc.in ${PROJECT_BINARY_DIR}/herd.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/herd.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
