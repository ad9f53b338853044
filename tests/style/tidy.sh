#!/usr/bin/env bash
# clang-tidy's bug checks over all sources, as many as fit in WHALEPOD_TIDY_SECONDS (600): those that
# changed last come first. Says how many were checked; fails on any finding.
set -euo pipefail
cd "$(dirname "$0")/../.."
budget=${WHALEPOD_TIDY_SECONDS:-600}
[ -f build/compile_commands.json ] || cmake --preset release >/dev/null
cmake --build build --target whalepod_generated >/dev/null

folders='^(base|proto|kernels|worker|coordinator)/.*\.cc$'
mapfile -t files < <({ git log --name-only --format= -n 200; git ls-files; } |
  grep -E "$folders" | awk '!seen[$0]++' | while read -r file; do
    [ -f "$file" ] && grep -q "/$file\"" build/compile_commands.json && echo "$file"; done)

started=$SECONDS
checked=0
bad=0
batch=$(nproc)
while [ "$checked" -lt ${#files[@]} ] && [ $((SECONDS - started)) -lt "$budget" ]; do
  some=("${files[@]:checked:batch}")
  found=$(printf '%s\0' "${some[@]}" |
    xargs -0 -n 1 -P "$batch" clang-tidy-16 -quiet -p build --extra-arg=-Wno-unknown-warning-option \
      2>/dev/null | grep -E 'warning:|error:' || true)
  [ -z "$found" ] || { echo "$found"; bad=1; }
  checked=$((checked + ${#some[@]}))
done
echo "clang-tidy: $checked of ${#files[@]} files checked"
[ "$bad" -eq 0 ]
