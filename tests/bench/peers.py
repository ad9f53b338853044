#!/usr/bin/env python3
"""The same load on Whalepod and on other servers with OpenAI's API, one after the other on this machine; prints ratios.

usage: peers.py BUILD [--model FOLDER] [--peer NAME=COMMAND]... [--rounds N] [--concurrency 1,8,32] ...
       peers.py --shapes FOLDER [--model FOLDER]

BUILD is a build folder with bin/whalepod. COMMAND starts a server; {port} in it is the port to serve on. For example

    peers.py build --shapes /tmp/shapes --rounds 3 \\
      --peer "vllm=env VLLM_TARGET_DEVICE=cpu VLLM_MLA_DISABLE=1 VLLM_CPU_OMP_THREADS_BIND=0-1 VLLM_CPU_KVCACHE_SPACE=2 \\
              vllm serve /tmp/shapes --load-format dummy --dtype bfloat16 --max-model-len 2048 --enforce-eager --port {port}" \\
      --peer "llama=llama-server -m r1-tiny.gguf -np 32 -c 65536 -t 2 --port {port}"

The GGUF is made by llama.cpp's convert_hf_to_gguf.py --outtype bf16 with deepseek-v3 for the pre-tokenizer, which it
tells by a hash of its output and so does not know of a model with another vocabulary.

--shapes FOLDER writes there the model's config without quantization, and its tokenizer: what a server that does not load
the checkpoint itself can serve with random weights of the same shapes. Each server runs alone, answers a load at each
concurrency (prompts of random token ids, closed loop, fixed lengths, greedy; see docs/benchmarking.md), and is stopped
before the next starts. Ratios are of medians over the rounds: above 1, Whalepod is ahead. A peer that does not start,
or fails requests, is said to, and the exit status is 1.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
# (of the saved figures, what is better)
FIGURES = [("output_throughput", "more"), ("median_ttft_ms", "less"), ("median_tpot_ms", "less"),
           ("p99_itl_ms", "less")]
OURS = "whalepod"


def write_shapes(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (model / name).exists():
            shutil.copy(model / name, folder / name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server in a process group of its own, alive within the with block. Raises RuntimeError if it does not serve."""

    def __init__(self, name, command, log, patience):
        self.name, self.log, self.patience = name, log, patience
        self.port = free_port()
        self.command = [part.replace("{port}", str(self.port)) for part in shlex.split(command)]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        with open(self.log, "wb") as out:
            self.child = subprocess.Popen(self.command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + self.patience
        try:
            while not self.serves():
                if self.child.poll() is not None:
                    raise RuntimeError(f"{self.name} ended with {self.child.returncode}; the last it said:\n{self.tail()}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not serve after {self.patience} s:\n{self.tail()}")
                time.sleep(0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def serves(self):
        """It names a model, and does not say that it is not ready."""
        try:
            with urllib.request.urlopen(self.url + "/v1/models", timeout=5) as answer:
                if not json.load(answer).get("data"):
                    return False
            with urllib.request.urlopen(self.url + "/health", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 404 and error.url.endswith("/health")  # not every server has it
        except (OSError, ValueError):  # of which URLError and JSONDecodeError are
            return False

    def tail(self):
        return "\n".join(pathlib.Path(self.log).read_text(errors="replace").splitlines()[-15:])

    def __exit__(self, *_):
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.child.pid, sign)
            except ProcessLookupError:
                break
            try:
                self.child.wait(20)
                break
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.child.pid, signal.SIGKILL)  # what it left behind
        except ProcessLookupError:
            pass
        self.child.wait()


def load(server, options, concurrency, scratch):
    """The saved figures of one load."""
    saved = scratch / "result.json"
    saved.unlink(missing_ok=True)
    command = [options.build / "bin/whalepod", "bench", "serve", "--base-url", server.url,
               "--num-prompts", max(8, options.per_stream * concurrency), "--max-concurrency", concurrency,
               "--warmup", concurrency, "--random-input-len", options.input_len,
               "--random-output-len", options.output_len, "--ignore-eos", "--save-result", saved]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=options.patience)
    if not saved.exists():
        raise RuntimeError(f"{server.name}, {concurrency} at once: {run.stderr.strip()}\n{server.tail()}")
    figures = json.loads(saved.read_text())
    if figures["failed"]:
        raise RuntimeError(f"{server.name}, {concurrency} at once: failed: {figures['failures']}\n{server.tail()}")
    return figures


def measure(name, command, options, scratch):
    """By concurrency, the figures of one life of a server."""
    with Server(name, command, scratch / f"{name}.log", options.patience) as server:
        return {concurrency: load(server, options, concurrency, scratch) for concurrency in options.concurrency}


def show(rounds, concurrency):
    """`rounds`: by server, its rounds that came through."""
    def median(name, at, figure):
        return statistics.median(one[at][figure] for one in rounds[name])

    for at in concurrency:
        print(f"\n{at} at once")
        for figure, better in FIGURES:
            line = f"  {figure:20}"
            ours = median(OURS, at, figure)
            for name in rounds:
                value = median(name, at, figure)
                line += f"  {name} {value:.2f}"
                if name == OURS:
                    continue
                above, below = (ours, value) if better == "more" else (value, ours)
                line += f" (ratio {above / below:.2f})" if below else " (no ratio)"
            print(line)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, nargs="?")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "deploy/models/r1-tiny")
    parser.add_argument("--shapes", type=pathlib.Path)
    parser.add_argument("--serve", default="--tp 2 --ep 2 --max-num-seqs 64", help="flags of whalepod serve")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--concurrency", default="1,8,32", type=lambda text: [int(item) for item in text.split(",")])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-stream", type=int, default=4, help="requests for each that is under way")
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--patience", type=int, default=600, help="seconds for a start, and for a load")
    options = parser.parse_args(arguments)
    if options.build is None and options.shapes is None:
        parser.error("BUILD or --shapes is needed")
    for peer in options.peer:
        name, _, command = peer.partition("=")
        if not name or not command or name == OURS:
            parser.error(f'--peer: expected NAME=COMMAND, found "{peer}"')
    return options


def main():
    options = parse(sys.argv[1:])
    if options.shapes is not None:
        write_shapes(options.model, options.shapes)
    if options.build is None:
        return 0
    servers = {OURS: f"{shlex.quote(str(options.build / 'bin/whalepod'))} serve {shlex.quote(str(options.model))} "
                     f"{options.serve} --port {{port}} --grpc-port 0 --control-port 0"}
    servers.update(peer.split("=", 1) for peer in options.peer)
    rounds = {name: [] for name in servers}
    failed = {}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.rounds):
            for name, command in servers.items():
                if name in failed:
                    continue
                try:
                    rounds[name].append(measure(name, command, options, pathlib.Path(scratch)))
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    failed[name] = error
                    print(f"{name}: {error}", file=sys.stderr)
                    if name == OURS:
                        return 1
    load_average = os.getloadavg()[0]
    print(f"{options.rounds} rounds, {options.input_len} tokens in, {options.output_len} out, {os.cpu_count()} cores, "
          f"load average {load_average:.1f} at the end")
    show({name: rounds[name] for name in servers if name not in failed}, options.concurrency)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
