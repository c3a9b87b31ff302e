# One static library per room. A room states what it uses; what it does not state does not link, and its headers are not
# on the include path. Headers are included from the repository's root: "models/cost/kernel_model.hpp".
#
#   moesim_room(NAME sources... USES rooms-and-libraries... HEADERS public headers...)

add_library(moesim_flags INTERFACE)
# -ffp-contract=off: the same bytes out at every optimization level.
target_compile_options(moesim_flags INTERFACE -Wall -Wextra -Wconversion -Wshadow -ffp-contract=off
                                              $<$<BOOL:${MOESIM_WERROR}>:-Werror>)
if(MOESIM_SANITIZE)
  target_compile_options(moesim_flags INTERFACE -fsanitize=${MOESIM_SANITIZE} -fno-sanitize-recover=all
                                                -fno-omit-frame-pointer)
  target_link_options(moesim_flags INTERFACE -fsanitize=${MOESIM_SANITIZE})
endif()

function(moesim_room name)
  cmake_parse_arguments(ROOM "" "" "USES;HEADERS" ${ARGN})
  add_library(moesim_${name} STATIC ${ROOM_UNPARSED_ARGUMENTS})
  target_sources(moesim_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ROOM_HEADERS})
  target_link_libraries(moesim_${name} PUBLIC moesim_vocabulary ${ROOM_USES} PRIVATE moesim_flags)
endfunction()

# A test program per room, named after it: tests/NAME mirrors NAME/. Label = room.
function(moesim_test name)
  cmake_parse_arguments(TEST "" "" "USES;LABELS" ${ARGN})
  add_executable(test_${name} ${TEST_UNPARSED_ARGUMENTS})
  target_link_libraries(test_${name} PRIVATE moesim_test_main moesim_flags ${TEST_USES})
  add_test(NAME ${name} COMMAND test_${name})
  set_tests_properties(${name} PROPERTIES LABELS "${name};${TEST_LABELS}" TIMEOUT 1500)
endfunction()
