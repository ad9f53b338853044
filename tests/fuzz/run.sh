#!/usr/bin/env bash
# Runs every fuzz target on its corpus for some seconds.
#
# usage: tests/fuzz/run.sh BUILD_FOLDER [SECONDS] [NAME...]
# Inputs found are kept in BUILD_FOLDER/corpus/NAME and used by the next run; a crashing input
# is left in BUILD_FOLDER/crashes. Prints for each target how many inputs ran and when the last new
# edge was found.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1
seconds=${2:-20}
shift
[ $# -eq 0 ] || shift
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for target in "$build"/tests/fuzz/fuzz_*; do names+=("${target##*/fuzz_}"); done
fi

mkdir -p "$build/crashes"
status=0
for name in "${names[@]}"; do
  found=$build/corpus/$name
  mkdir -p "$found"
  corpora=("$found")
  [ ! -d "$here/corpus/$name" ] || corpora+=("$here/corpus/$name")
  args=()
  [ ! -f "$here/$name.dict" ] || args+=("-dict=$here/$name.dict")
  if [ "$name" = plan ]; then
    mkdir -p "$build/corpus/plan_seeds"
    "$build/tests/fuzz/plan_seeds" "$build/corpus/plan_seeds" || { status=1; continue; }
    corpora+=("$build/corpus/plan_seeds")
    args+=(-max_len=131072)
  fi
  log=$build/fuzz_$name.log
  "$build/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 \
    -print_final_stats=1 -artifact_prefix="$build/crashes/$name-" ${args[@]+"${args[@]}"} \
    "${corpora[@]}" >"$log" 2>&1
  result=$?
  awk -v name="$name" -v result="$result" '
    /cov: [0-9]+/ {
      for (i = 1; i < NF; ++i) if ($i == "cov:") cov = $(i + 1)
      run = substr($1, 2) + 0
      if (cov > best) { best = cov; last = run }
      if (run > runs) runs = run
    }
    END {
      printf "fuzz_%s: %s, %d runs, %d edges, the last new one at %.0f %% of the run\n", name,
             result == 0 ? "ok" : "FAILED", runs, best, runs ? 100 * last / runs : 0
    }' "$log"
  if [ "$result" -ne 0 ]; then
    status=1
    tail -n 30 "$log"
  fi
done
exit $status
