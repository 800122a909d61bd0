target_sources(herd_backend PRIVATE ${CMAKE_CURRENT_LIST_DIR}/scalar.cc)
