#!/usr/bin/env bash
# From a fresh Debian 12 to an answer: installs packages, builds, serves the bundled model on four
# workers of this machine (tensor and expert parallel), asks it a question and shows its
# thinking and its answer as they come. Leaves nothing running. As root, or with sudo.
set -euo pipefail
cd "$(dirname "$0")/../.."

deploy/local/install_packages.sh deploy/local/packages.txt

echo "building" >&2
mkdir -p build
build_log=build/quickstart.log
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DWHALEPOD_BUILD_TESTS=OFF \
  >"$build_log" 2>&1 || { cat "$build_log"; exit 1; }
cmake --build build --target whalepod whalepod-worker >>"$build_log" 2>&1 ||
  { tail -n 60 "$build_log"; exit 1; }

log=$(mktemp)
build/bin/whalepod serve deploy/models/r1-tiny --tensor-parallel-size 4 --enable-expert-parallel \
  --port 0 --grpc-port 0 >"$log" 2>"$log.errors" &
server=$!
stop() {
  kill -TERM "$server" 2>/dev/null && wait "$server" || true
  rm -f "$log" "$log.errors"
}
trap stop EXIT

# "ready: ... clients on 127.0.0.1:PORT" is the last line of a deployment that has come up.
until endpoint=$(sed -n 's/^ready: .* clients on //p' "$log") && [ -n "$endpoint" ]; do
  kill -0 "$server" 2>/dev/null || { cat "$log" "$log.errors" >&2; exit 1; }
  sleep 0.1
done
cat "$log" >&2

question="What is 1236 plus 2199?"
echo "> $question"
echo "{\"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}" |
  build/bin/whalepod generate --endpoint "$endpoint" --temperature 0 --max-tokens 200 --prompts -
