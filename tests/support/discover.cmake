# SPDX-License-Identifier: Apache-2.0
# Sanitizers make the engine several times slower: every limit of time is this many times as long under them.
set(ISOSLICE_PATIENCE 1)
if(ISOSLICE_SANITIZE)
  set(ISOSLICE_PATIENCE 4)
endif()

# ./test runs ctest with four slots on two cores: a test that computes, with as many threads as there are cores, takes two
# of them (SLOTS 2), one that waits most of its time (for a disk, a peer, a limit of time) takes one; under sanitizers it
# computes as well. Which tests differ from the others of their file, and which start first because they are long, stands
# in schedule.cmake.

# isoslice_test(PROGRAM SOURCES... LIBRARIES ... [TIMEOUT SECONDS] [SLOTS N] [LABELS ...])
# Builds a test program and registers every test that it lists itself (see check.h), each as a process of its own in
# an empty directory of its own. 77 is a skip. SLOTS: 2 unless given.
function(isoslice_test program)
  cmake_parse_arguments(T "" "TIMEOUT;SLOTS" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  if(NOT T_SLOTS OR ISOSLICE_SANITIZE)
    set(T_SLOTS 2)
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  math(EXPR T_TIMEOUT "${T_TIMEOUT} * ${ISOSLICE_PATIENCE}")
  add_executable(${program} ${T_SOURCES})
  target_link_libraries(${program} PRIVATE ${T_LIBRARIES})
  set(reader "")
  if(TARGET isoslice-read) # which programs of ours start
    set(reader $<TARGET_FILE:isoslice-read>)
  endif()
  set(list ${CMAKE_CURRENT_BINARY_DIR}/${program}.tests.cmake)
  add_custom_command(TARGET ${program} POST_BUILD
    COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:${program}> -DLIST=${list} -DTIMEOUT=${T_TIMEOUT} -DSLOTS=${T_SLOTS}
            "-DLABELS=${T_LABELS}" "-DREADER=${reader}" -P ${CMAKE_SOURCE_DIR}/tests/support/list_tests.cmake
    BYPRODUCTS ${list} VERBATIM)
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${list})
endfunction()

# isoslice_script_test(SCRIPT [TIMEOUT SECONDS] [SLOTS N] [ENVIRONMENT ...] [SERIAL])
# The same for a Python program that lists its tests without arguments and runs the one that is named.
function(isoslice_script_test script)
  cmake_parse_arguments(T "SERIAL" "TIMEOUT;SLOTS" "ENVIRONMENT" ${ARGN})
  if(NOT T_SLOTS OR ISOSLICE_SANITIZE)
    set(T_SLOTS 2)
  endif()
  math(EXPR T_TIMEOUT "${T_TIMEOUT} * ${ISOSLICE_PATIENCE}")
  execute_process(COMMAND ${CMAKE_COMMAND} -E env ${T_ENVIRONMENT} /usr/bin/python3 ${script}
    OUTPUT_VARIABLE names RESULT_VARIABLE rc OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT rc EQUAL 0 OR names STREQUAL "")
    message(FATAL_ERROR "${script} lists no tests (exit ${rc})")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${script})
  string(REPLACE "\n" ";" names "${names}")
  foreach(name ${names})
    set(dir ${CMAKE_CURRENT_BINARY_DIR}/${name})
    file(MAKE_DIRECTORY ${dir})
    add_test(NAME ${name} COMMAND /usr/bin/python3 ${script} ${name} WORKING_DIRECTORY ${dir})
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${T_TIMEOUT} PROCESSORS ${T_SLOTS}
      ENVIRONMENT "${T_ENVIRONMENT}")
    if(T_SERIAL)
      set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
    endif()
  endforeach()
endfunction()
