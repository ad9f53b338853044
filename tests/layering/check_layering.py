#!/usr/bin/env python3
"""Checks that includes follow the directions of dependency (docs/architecture.md).

usage: check_layering.py ROOT   exit 1 and a line per wrong include
       check_layering.py --self-test ROOT   plants wrong includes in a copy and expects each to fail
"""

import pathlib
import re
import shutil
import sys
import tempfile

SOURCE = re.compile(r".*\.(cc|h|cu|cuh|inl)$")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')

# folder prefix -> project folders it may include, besides itself. The longest prefix decides.
ALLOWED = {
    "base": [],
    "proto": ["base", "whalepod/v1"],
    "kernels": ["base"],
    "kernels/cpu": ["base", "kernels"],
    "kernels/cuda": ["base", "kernels"],
    "worker": ["base", "proto", "kernels", "whalepod/v1"],
    "coordinator": ["base", "proto", "whalepod/v1"],
}
# Within kernels, only the backend's own folder; outside, only main files name concrete backends.
PRIVATE = {
    "kernels/cpu": ["kernels/cpu", "worker/main.cc"],
    "kernels/cuda": ["kernels/cuda", "worker/main.cc"],
    "worker/comm/shared_memory": ["worker/comm", "worker/main.cc"],
    "worker/comm/gloo": ["worker/comm", "worker/main.cc"],
    "worker/comm/in_process": ["worker/comm"],
    "worker/comm/select": ["worker/comm", "worker/main.cc"],
}
# Third parties and who may include them.
GRPC_FOLDERS = [
    "coordinator/api", "coordinator/fleet", "coordinator/cli", "coordinator/server",
    "coordinator/main.cc", "worker/control", "worker/main.cc",
]
THIRD_PARTY = {
    "grpcpp/": GRPC_FOLDERS,
    "grpc/": GRPC_FOLDERS,
    "gloo/": ["worker/comm"],
    "prometheus/": ["coordinator/metrics"],
    "cuda": ["kernels/cuda"],
    "nccl": ["worker/comm"],
    "oneapi/": [],
    "dnnl": [],
    "google/protobuf/": ["proto", "coordinator", "worker"],
}
PROJECT = ("base/", "proto/", "kernels/", "worker/", "coordinator/", "tests/", "deploy/", "whalepod/v1/")


def longest_prefix(path, table):
    best = None
    for prefix in table:
        if path == prefix or path.startswith(prefix + "/"):
            if best is None or len(prefix) > len(best):
                best = prefix
    return best


def wrong_include(path, included):
    """Why `path` (relative) may not include `included`, or None."""
    if included.endswith(".grpc.pb.h") and not path.startswith(tuple(GRPC_FOLDERS)):
        return "gRPC services are only for " + ", ".join(GRPC_FOLDERS)
    for prefix, folders in THIRD_PARTY.items():
        if included.startswith(prefix) and not path.startswith(tuple(folders) or ("\0",)):
            return f"{prefix}* is only for {', '.join(folders) or 'tests'}"
    if not included.startswith(PROJECT):
        return None
    for prefix, users in PRIVATE.items():
        if included.startswith(prefix) and not path.startswith(tuple(users)):
            return f"{prefix} is private to {', '.join(users)}"
    own = longest_prefix(path, ALLOWED)
    if own is None:
        return None
    top = path.split("/")[0]
    allowed = [top] + ALLOWED[own]
    if any(included == a or included.startswith(a + "/") for a in allowed):
        return None
    return f"{own} may include only {', '.join(allowed)}"


def check(root):
    problems = []
    for folder in ("base", "proto", "kernels", "worker", "coordinator"):
        for file in sorted((root / folder).rglob("*")):
            if not SOURCE.match(file.name):
                continue
            path = file.relative_to(root).as_posix()
            for number, line in enumerate(file.read_text().splitlines(), 1):
                found = INCLUDE.match(line)
                if not found:
                    continue
                why = wrong_include(path, found.group(1))
                if why:
                    problems.append(f"{path}:{number}: includes {found.group(1)}: {why}")
    return problems


PLANTS = [
    ("coordinator/plan/planted.cc", "worker/rank.h"),
    ("coordinator/sched/planted.cc", "kernels/ops.h"),
    ("coordinator/sched/planted.cc", "grpcpp/grpcpp.h"),
    ("coordinator/api/planted.cc", "prometheus/text_serializer.h"),
    ("coordinator/metrics/planted.cc", "grpcpp/grpcpp.h"),
    ("worker/model/planted.cc", "kernels/cpu/cpu_backend.h"),
    ("worker/model/planted.cc", "worker/comm/shared_memory.h"),
    ("worker/model/planted.cc", "whalepod/v1/control.grpc.pb.h"),
    ("kernels/cpu/planted.cc", "kernels/cuda/rms_norm.h"),
    ("kernels/planted.cc", "whalepod/v1/plan.pb.h"),
    ("kernels/planted.cc", "proto/plan/layout.h"),
    ("proto/plan/planted.cc", "coordinator/plan/planner.h"),
    ("base/planted.cc", "kernels/dtype.h"),
    ("worker/planted.cc", "tests/worker/harness.h"),
]


def self_test(root):
    failures = []
    for path, included in PLANTS:
        with tempfile.TemporaryDirectory() as scratch:
            copy = pathlib.Path(scratch)
            for folder in ("base", "proto", "kernels", "worker", "coordinator"):
                shutil.copytree(root / folder, copy / folder)
            planted = copy / path
            planted.parent.mkdir(parents=True, exist_ok=True)
            planted.write_text(f'#include "{included}"\n')
            if not any(p.startswith(path) for p in check(copy)):
                failures.append(f"not caught: {path} including {included}")
    return failures


def main():
    planted = sys.argv[1] == "--self-test"
    root = pathlib.Path(sys.argv[-1])
    problems = self_test(root) if planted else check(root)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
