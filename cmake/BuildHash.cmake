# build_hash.h: names what this build was made of. Workers of one epoch must have the same. From git
# where the sources are a checkout, else from the sources themselves.
function(whalepod_build_hash OUT)
  execute_process(COMMAND git -C ${CMAKE_SOURCE_DIR} describe --always --dirty --abbrev=12
                  OUTPUT_VARIABLE hash OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
                  RESULT_VARIABLE result)
  if(NOT result EQUAL 0 OR hash MATCHES "-dirty$" OR NOT EXISTS ${CMAKE_SOURCE_DIR}/.git)
    file(GLOB_RECURSE files RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/base/*.cc
         ${CMAKE_SOURCE_DIR}/base/*.h ${CMAKE_SOURCE_DIR}/proto/*.cc ${CMAKE_SOURCE_DIR}/proto/*.h
         ${CMAKE_SOURCE_DIR}/proto/*.proto ${CMAKE_SOURCE_DIR}/kernels/*.cc
         ${CMAKE_SOURCE_DIR}/kernels/*.h ${CMAKE_SOURCE_DIR}/worker/*.cc
         ${CMAKE_SOURCE_DIR}/worker/*.h)
    list(SORT files)
    set(hashes "")
    foreach(file ${files})
      file(SHA256 ${CMAKE_SOURCE_DIR}/${file} one)
      string(APPEND hashes "${file} ${one}\n")
    endforeach()
    string(SHA256 hash "${hashes}")
    string(SUBSTRING ${hash} 0 16 hash)
    string(PREPEND hash "src-")
  endif()
  file(CONFIGURE OUTPUT ${OUT} CONTENT "#pragma once\n#define WHALEPOD_BUILD_HASH \"${hash}\"\n")
endfunction()
