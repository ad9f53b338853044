#!/usr/bin/env python3
"""Encoding speed of the coordinator's tokenizer against Hugging Face's tokenizers, both on one thread.

usage: text_ratio.py TEXT_BENCH FOLDER...      TEXT_BENCH: build-bench/bin/text_bench
The text is 1 MB: this repository's documents and sources, and a tenth of it random strings in many scripts
(tests/golden/text_strings.py). Both are CPU time. The two take turns, three times; the best of each counts. tokenizers
is slower on one long string than on its parts, so it is given the text both whole and in its lines.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))

import text_strings  # noqa: E402
import tokenizers  # noqa: E402

SIZE = 1_000_000


def mixed_text():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.md", "*.cc", "*.h", "*.py"], check=True,
                            capture_output=True, text=True).stdout.split()
    files = sorted(listed, key=lambda path: (not path.endswith(".md"), path))
    prose = "".join((ROOT / path).read_text() for path in files)[:SIZE * 9 // 10]
    strings = ""
    seed = 0
    while len((prose + strings).encode()) < SIZE:
        strings += text_strings.make_string(seed) + "\n"
        seed += 1
    return prose + strings


def bench(binary, folder, path):
    out = subprocess.run([binary, folder, path, "--benchmark_format=json"], check=True, capture_output=True, text=True)
    return {b["name"]: b for b in json.loads(out.stdout)["benchmarks"]}


def main():
    binary, folders = sys.argv[1], sys.argv[2:]
    text = mixed_text()
    size = len(text.encode())
    lines = text.splitlines(keepends=True)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        for folder in folders:
            reference = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
            theirs, by_line, ours, short, token = 0.0, 0.0, 0.0, 0.0, 1.0
            for _ in range(3):
                begin = time.process_time()
                count = len(reference.encode(text, add_special_tokens=False).ids)
                theirs = max(theirs, size / (time.process_time() - begin))
                begin = time.process_time()
                for line in lines:
                    reference.encode(line, add_special_tokens=False)
                by_line = max(by_line, size / (time.process_time() - begin))
                found = bench(binary, folder, file.name)
                ours = max(ours, found["encode"]["bytes_per_second"])
                short = max(short, found["encode_short"]["bytes_per_second"])
                token = min(token, found["detokenize_and_parse"]["per_token"])
                assert found["encode"]["ids"] == count, "not the same ids"
            print(f"{os.path.basename(folder)}: encode {ours / 1e6:.1f} MB/s, short texts {short / 1e6:.1f} MB/s; tokenizers "
                  f"{theirs / 1e6:.2f} MB/s, by lines {by_line / 1e6:.2f} MB/s; ratios {ours / theirs:.1f}, "
                  f"{ours / by_line:.1f}; detokenize and parse {token * 1e6:.3f} us a token", flush=True)


if __name__ == "__main__":
    main()
