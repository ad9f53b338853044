#!/usr/bin/env bash
# Writes the stubs in whalepod/v1 anew, which are checked in: run it when proto/ changes. Needs
# protobuf-compiler and protobuf-compiler-grpc.
set -euo pipefail
cd "$(dirname "$0")"
protoc --proto_path=../../proto --python_out=. --grpc_out=. \
  --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)" \
  whalepod/v1/inference.proto whalepod/v1/jobs.proto
