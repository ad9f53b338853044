#!/usr/bin/env python3
"""clang-tidy's bug checks over all sources, as many as can be started in WHALEPOD_TIDY_SECONDS (600).

What changed last comes first. A file found clean is remembered by a hash of its preprocessed text,
of the checks and of clang-tidy's version (in $XDG_CACHE_HOME/whalepod-tidy), and is not checked
again until that changes. Says how many were checked, how many remembered and how many are left;
exits 1 on any finding.
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SOURCES = re.compile(r"^(base|proto|kernels|worker|coordinator)/.*\.cc$")
CACHE = pathlib.Path(
    os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "whalepod-tidy"


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def commands():
    """Compile commands by source file, relative to the root: kernels have one for each path."""
    found = {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        file = pathlib.Path(entry["directory"], entry["file"]).resolve()
        if file.is_relative_to(ROOT):
            found.setdefault(str(file.relative_to(ROOT)), []).append(shlex.split(entry["command"]))
    return found


def sources(known):
    """Sources that are built, those of the latest commits first."""
    names = output("git", "log", "--name-only", "--format=", "-n", "200").splitlines()
    names += output("git", "ls-files").splitlines()
    return [n for n in dict.fromkeys(names) if SOURCES.match(n) and n in known]


def preprocessed(command):
    """What clang makes of a file; None where it cannot."""
    arguments, skip = [], False
    for argument in command:
        if skip or argument in ("-c", "-MD", "-MT", "-MF", "-o"):
            skip = not skip and argument in ("-MT", "-MF", "-o")
            continue
        arguments.append(argument)
    while not arguments[0].endswith(("++", "++-12", "clang++-16")):
        arguments.pop(0)  # a launcher such as ccache
    # Comments are kept: they carry NOLINT.
    run = subprocess.run(
        ["clang++-16", "-E", "-C", "-P", "-Wno-everything", *arguments[1:]],
        cwd=BUILD, capture_output=True)
    return None if run.returncode else run.stdout


def key(name, commands_of_file, salt):
    """What a finding depends on; None where that is not known."""
    texts = [preprocessed(command) for command in commands_of_file]
    if None in texts:
        return None
    return hashlib.sha256(b"\0".join([salt, name.encode(), *texts])).hexdigest()


def check(name, commands_of_file, salt):
    """(remembered, findings)"""
    clean = key(name, commands_of_file, salt)
    if clean and (CACHE / clean).exists():
        return True, ""
    run = subprocess.run(
        ["clang-tidy-16", "-quiet", "-p", str(BUILD), "--extra-arg=-Wno-unknown-warning-option", name],
        cwd=ROOT, capture_output=True, text=True)
    findings = "\n".join(l for l in run.stdout.splitlines() if "warning:" in l or "error:" in l)
    if not findings and run.returncode:
        findings = f"{name}: clang-tidy ended with {run.returncode}: {run.stderr[-500:]}"
    if clean and not findings:
        (CACHE / clean).touch()
    return False, findings


def main():
    if not (BUILD / "compile_commands.json").exists():
        output("cmake", "--preset", "release")
    output("cmake", "--build", "build", "--target", "whalepod_generated")
    CACHE.mkdir(parents=True, exist_ok=True)
    salt = output("clang-tidy-16", "--version").encode() + (ROOT / ".clang-tidy").read_bytes()
    deadline = time.monotonic() + float(os.environ.get("WHALEPOD_TIDY_SECONDS", "600"))
    known = commands()
    names = sources(known)

    def run(name):
        return None if time.monotonic() > deadline else check(name, known[name], salt)

    jobs = int(os.environ.get("WHALEPOD_JOBS", os.cpu_count()))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(run, names))
    done = [r for r in results if r]
    remembered = sum(r[0] for r in done)
    bad = [r[1] for r in done if r[1]]
    print(*bad, sep="\n", end="\n" if bad else "")
    print(f"clang-tidy: {len(done) - remembered} files checked, {remembered} known to be clean, "
          f"{len(names) - len(done)} left for lack of time, {len(bad)} with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
