# SPDX-License-Identifier: Apache-2.0
# isoslice_test(PROGRAM SOURCES... LIBRARIES ... [TIMEOUT SECONDS] [LABELS ...])
# Builds a test program and registers every test that it lists itself (see check.h), each as a process of its own in
# an empty directory of its own. 77 is a skip.
function(isoslice_test program)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  add_executable(${program} ${T_SOURCES})
  target_link_libraries(${program} PRIVATE ${T_LIBRARIES})
  set(list ${CMAKE_CURRENT_BINARY_DIR}/${program}.tests.cmake)
  add_custom_command(TARGET ${program} POST_BUILD
    COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:${program}> -DLIST=${list} -DTIMEOUT=${T_TIMEOUT}
            "-DLABELS=${T_LABELS}" -P ${CMAKE_SOURCE_DIR}/tests/support/list_tests.cmake
    BYPRODUCTS ${list} VERBATIM)
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${list})
endfunction()
