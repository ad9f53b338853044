#!/usr/bin/env bash
# Every C++ file is as clang-format (Debian 12's 14) writes it.
set -euo pipefail
cd "$(dirname "$0")/../.."
git ls-files '*.cc' '*.h' '*.cu' '*.cuh' '*.proto' | grep -v '\.proto$' |
  xargs -r clang-format --dry-run -Werror
