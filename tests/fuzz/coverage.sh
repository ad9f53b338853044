#!/usr/bin/env bash
# Line coverage of the parsers by the corpora (those in the repository and those found by run.sh).
#
# usage: tests/fuzz/coverage.sh [BUILD_FOLDER_OF_RUNS]
# Builds with coverage into build-fuzz-coverage; needs llvm-16 (llvm-cov, llvm-profdata).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
runs=${1:-$root/build-fuzz}
out=$root/build-fuzz-coverage
cmake --preset fuzz -S "$root" -B "$out" -DWHALEPOD_FUZZ_COVERAGE=ON >/dev/null
cmake --build "$out" >/dev/null
objects=()
profiles=()
for target in "$out"/tests/fuzz/fuzz_*; do
  name=${target##*/fuzz_}
  corpora=()
  for folder in "$here/corpus/$name" "$runs/corpus/$name" "$runs/corpus/${name}_seeds"; do
    [ ! -d "$folder" ] || corpora+=("$folder")
  done
  LLVM_PROFILE_FILE=$out/$name.profraw "$target" -runs=0 "${corpora[@]}" >/dev/null 2>&1
  profiles+=("$out/$name.profraw")
  # The first one is llvm-cov's own argument.
  [ ${#objects[@]} -eq 0 ] || objects+=(-object)
  objects+=("$target")
done
llvm-profdata-16 merge -o "$out/all.profdata" "${profiles[@]}"
sources=()
for name in config index json json_object safetensors inventory; do
  sources+=("$root/coordinator/checkpoint/$name.cc")
done
for name in openai_request batch_format multipart; do
  sources+=("$root/coordinator/api/$name.cc")
done
for name in validate validate_slices check_spec; do
  [ ! -f "$root/proto/plan/$name.cc" ] || sources+=("$root/proto/plan/$name.cc")
done
if [ -n "${SHOW:-}" ]; then
  llvm-cov-16 show -instr-profile="$out/all.profdata" "${objects[@]}" "${sources[@]}"
else
  llvm-cov-16 report -instr-profile="$out/all.profdata" "${objects[@]}" "${sources[@]}" |
    awk 'NR <= 2 || /\.cc|TOTAL/ { print $1, "lines", $8, "missed", $9, "covered", $10 }'
fi
