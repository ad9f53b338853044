#!/usr/bin/env bash
# Installs what is needed (Debian 12), builds and runs tests.
#
# usage: tests/run.sh [CONFIG...]
#   release    Release build, every test but those labelled large   (the default)
#   large      the tests labelled large, in the Release build (gigabytes of disk and memory)
#   asan       AddressSanitizer and UBSan: unit tests
#   tsan       ThreadSanitizer: scheduler, fleet, communicators, control, thread pool
#   fuzz       libFuzzer targets, WHALEPOD_FUZZ_SECONDS (20) each
#   emulation  CUDA sources compiled as C++ against tests/cuda_emu (and by nvcc where it is)
#   style      clang-format
#   tidy       clang-tidy's bug checks, for WHALEPOD_TIDY_SECONDS (600): what changed last comes first,
#              what is known to be clean is passed over
#   ci         style, release, tsan, asan, fuzz and tidy, as many as can be started within their
#              budgets; what .ci/run calls
# Ends with "N passed, N failed" over all checks and exits 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.."
jobs=${WHALEPOD_JOBS:-$(nproc)}
# ccache, where it is, finds what another clone of this tree has compiled.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
passed=0
failed=0
failures=()

note() { printf '\n== %s  (%s)\n' "$1" "$(date +%H:%M:%S)"; }

# check NAME COMMAND...: one check outside CTest.
check() {
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$name")
  fi
}

build() {  # PRESET [TARGET...]
  cmake --preset "$1" >"build-$1.log" 2>&1 || { cat "build-$1.log"; return 1; }
  grep -E '^-- Whalepod|CMake Warning' "build-$1.log"
  cmake --build --preset "$1" -j "$jobs" ${2:+--target "${@:2}"} >>"build-$1.log" 2>&1 || { tail -n 60 "build-$1.log"; return 1; }
}

# run_ctest FOLDER ARGS...: adds CTest's counts.
run_ctest() {
  local folder=$1 log
  shift
  log=$(mktemp)
  ctest --test-dir "$folder" --output-on-failure --no-tests=error -j "$jobs" "$@" | tee "$log" |
    grep -vE '^ *Start '
  local summary total bad
  summary=$(grep -E 'tests passed, [0-9]+ tests failed out of' "$log" | tail -n 1)
  if [ -z "$summary" ]; then
    failed=$((failed + 1))
    failures+=("$folder: no CTest summary")
  else
    total=${summary##*out of }
    bad=$(sed -E 's/.*passed, ([0-9]+) tests failed.*/\1/' <<<"$summary")
    passed=$((passed + total - bad))
    failed=$((failed + bad))
    [ "$bad" -eq 0 ] || failures+=("$folder: $bad tests")
  fi
  rm -f "$log"
}

config_release() {
  check "build release" build release && run_ctest build -LE large
}
config_large() {
  check "build release" build release && run_ctest build -L large -j 1
}
config_asan() {
  check "build asan" build asan tests_unit &&
    ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
      run_ctest build-asan -L unit
}
config_tsan() {
  check "build tsan" build tsan tests_threads &&
    TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1 suppressions=$PWD/tests/tsan.supp" \
      run_ctest build-tsan -L threads
}
config_fuzz() {
  check "build fuzz" build fuzz && check "fuzz" tests/fuzz/run.sh build-fuzz "${WHALEPOD_FUZZ_SECONDS:-20}"
}
config_emulation() {
  check "build release" build release && run_ctest build -L emulation
}
config_style() {
  check "clang-format" tests/style/format.sh
}
config_tidy() {
  check "clang-tidy" tests/style/tidy.py
}

deploy/local/install_packages.sh deploy/local/packages.txt tests/packages.txt || exit 1
[ $# -gt 0 ] || set -- release
# Minutes after which a configuration is no longer started in CI, so that all end within 90.
declare -A latest_start=()
if [ "$*" = ci ]; then
  set -- style release tsan asan fuzz tidy
  latest_start=([tsan]=35 [asan]=45 [fuzz]=65 [tidy]=75)
  export WHALEPOD_TIDY_SECONDS=${WHALEPOD_TIDY_SECONDS:-300}
fi
for config in "$@"; do
  if [ $((SECONDS / 60)) -ge "${latest_start[$config]:-1000}" ]; then
    echo "== $config skipped: $((SECONDS / 60)) minutes are gone, it starts within ${latest_start[$config]}"
    continue
  fi
  note "$config"
  started=$SECONDS
  "config_$config"
  echo "== $config took $((SECONDS - started)) s"
done

[ ${#failures[@]} -eq 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
