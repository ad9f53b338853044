#!/usr/bin/env python3
"""Compares the coordinator's tokenizer with Hugging Face's tokenizers, id by id. By hand.

usage: compare_tokenizers.py DRIVER FOLDER... [--strings N] [--seed S]
DRIVER is build/bin/text_driver; each FOLDER holds a tokenizer.json. Needs the package tokenizers.
Compares: N random strings (text_strings.py); each code point alone, between letters, after an apostrophe and
between spaces (of Unicode 14); decoding of what was encoded and of random ids. Prints the first differences and a count.
"""

import argparse
import array
import os
import struct
import subprocess
import sys
import tempfile
import unicodedata

import text_strings
import tokenizers


def drive(driver, command, folder, frames):
    with tempfile.TemporaryFile() as sent:
        for frame in frames:
            sent.write(struct.pack("<I", len(frame)) + frame)
        sent.seek(0)
        answer = subprocess.run([driver, command, folder], stdin=sent, stdout=subprocess.PIPE, check=True).stdout
    at = 0
    out = []
    while at < len(answer):
        size = struct.unpack_from("<I", answer, at)[0]
        out.append(answer[at + 4:at + 4 + size])
        at += 4 + size
    return out


def ids_of(frame):
    ids = array.array("I")
    ids.frombytes(frame)
    return ids.tolist()


def cases(count, seed):
    out = [text_strings.make_string(seed + i) for i in range(count)]
    for code in range(0x110000):
        c = chr(code)
        if unicodedata.category(c) in ("Cn", "Cs"):
            continue
        out.append(f"a{c}b {c} {c}1'{c}{c} \n{c}")
    return out


def report(what, folder, failures, total):
    for given, expected, found in failures[:5]:
        print(f"  {what} of {given!r}"[:500] + f"\n    expected {expected!r}"[:500] + f"\n    found    {found!r}"[:500])
    print(f"{os.path.basename(folder)}: {what}: {total - len(failures)} of {total} equal", flush=True)
    return not failures


def compare(driver, folder, texts, seed):
    reference = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    expected = []
    for begin in range(0, len(texts), 10000):
        batch = reference.encode_batch(texts[begin:begin + 10000], add_special_tokens=False)
        expected += [encoding.ids for encoding in batch]
    found = [ids_of(f) for f in drive(driver, "encode", folder, [t.encode() for t in texts])]
    bad = [(t, e, f) for t, e, f in zip(texts, expected, found) if e != f]
    good = report("encode", folder, bad, len(texts))

    r = text_strings.Random(seed)
    limit = reference.get_vocab_size() + 10
    lists = expected + [[r.below(limit) for _ in range(1 + r.below(30))] for _ in range(20000)]
    texts_back = [reference.decode(ids, skip_special_tokens=False) for ids in lists]
    decoded = [f.decode() for f in drive(driver, "decode", folder, [array.array("I", ids).tobytes() for ids in lists])]
    bad = [(i, e, f) for i, e, f in zip(lists, texts_back, decoded) if e != f]
    return report("decode", folder, bad, len(lists)) and good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--strings", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    texts = cases(args.strings, args.seed)
    results = [compare(args.driver, folder, texts, args.seed) for folder in args.folders]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
