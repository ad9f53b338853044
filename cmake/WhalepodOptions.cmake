# Build options and the compile flags every target shares.
option(WHALEPOD_BUILD_TESTS "Build unit and integration tests" ON)
option(WHALEPOD_BUILD_BENCH "Build benchmarks (Google Benchmark, oneDNN as referee)" OFF)
option(WHALEPOD_BUILD_FUZZ "Build libFuzzer targets (clang)" OFF)
option(WHALEPOD_WERROR "Treat warnings as errors" ON)
set(WHALEPOD_SANITIZE "" CACHE STRING "Sanitizers: empty, 'address,undefined' or 'thread'")

add_library(whalepod_flags INTERFACE)
target_include_directories(whalepod_flags INTERFACE ${CMAKE_SOURCE_DIR})
# -ffp-contract=off: the compiler may never fuse a multiply and an add on its own, see
# docs/numbers.md. Fused operations are written as such.
target_compile_options(whalepod_flags INTERFACE -Wall -Wextra -Wno-unused-parameter
                       -Wno-missing-field-initializers -ffp-contract=off -fno-math-errno)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # GCC 12 reports false overlaps inside std::string (GCC bug 105329).
  target_compile_options(whalepod_flags INTERFACE -Wno-restrict)
endif()
if(WHALEPOD_WERROR)
  target_compile_options(whalepod_flags INTERFACE -Werror)
endif()
if(WHALEPOD_SANITIZE)
  # Lines are all that reports need; more takes half as long again to compile.
  target_compile_options(whalepod_flags INTERFACE -fsanitize=${WHALEPOD_SANITIZE}
                         -fno-omit-frame-pointer -g1)
  target_link_options(whalepod_flags INTERFACE -fsanitize=${WHALEPOD_SANITIZE})
  if(WHALEPOD_SANITIZE STREQUAL thread)
    target_link_options(whalepod_flags INTERFACE
                        -Wl,--version-script=${CMAKE_SOURCE_DIR}/tests/tsan.map)
  endif()
endif()

# Decided once: a ccache that is installed later (tests/run.sh does) would build all anew.
if(NOT DEFINED CACHE{CMAKE_CXX_COMPILER_LAUNCHER})
  find_program(WHALEPOD_CCACHE ccache)
  if(NOT WHALEPOD_CCACHE)
    set(WHALEPOD_CCACHE "")
  endif()
  set(CMAKE_CXX_COMPILER_LAUNCHER "${WHALEPOD_CCACHE}" CACHE STRING "What runs the compiler")
endif()
