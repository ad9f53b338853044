#!/usr/bin/env bash
# clang-tidy's bug checks over sources that changed against $WHALEPOD_TIDY_BASE, or over all.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -f build/compile_commands.json ] || cmake --preset release >/dev/null
cmake --build build --target whalepod_generated >/dev/null
files=$(git ls-files 'base/*.cc' 'proto/*.cc' 'kernels/*.cc' 'worker/*.cc' 'coordinator/*.cc')
run-clang-tidy-16 -quiet -p build -j "$(nproc)" -config-file=.clang-tidy $files 2>/dev/null |
  { ! grep -E 'warning:|error:'; }
