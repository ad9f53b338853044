#!/usr/bin/env python3
"""Scores what a deployment answered to problems.py's problems.

    problems.py --count 2000 --kind mixed --out problems.jsonl --expected expected.jsonl
    whalepod generate --prompts problems.jsonl --temperature 0 --max-tokens 300 --json > answers.jsonl
    score.py expected.jsonl answers.jsonl [--at-least PERCENT]

Line by line: an answer is exact when its text ends in the right \\boxed{...}, the only one in it.
Prints the share by operation, and by phrasing family where that is below the whole's; exit status 1
below --at-least.
"""

import argparse
import collections
import json
import sys


def exact(answer, expected):
    text = answer["text"].rstrip()
    return (
        answer["finish_reason"] == "stop"
        and text.endswith(expected["answer"] + ".")
        and text.count("\\boxed") == 1
    )


def score(expected, answers):
    """{"all" or an operation or "operation: family": [right, asked]}"""
    counts = collections.defaultdict(lambda: [0, 0])
    for want, got in zip(expected, answers, strict=True):
        right = exact(got, want)
        for key in ("all", want["operation"], f"{want['operation']}: {want['family']}"):
            counts[key][0] += right
            counts[key][1] += 1
    return counts


def percent(count):
    return 100 * count[0] / count[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("expected")
    parser.add_argument("answers")
    parser.add_argument("--at-least", type=float, default=0, help="percent of all")
    args = parser.parse_args()
    expected, answers = (
        [json.loads(line) for line in open(path)] for path in (args.expected, args.answers)
    )
    counts = score(expected, answers)
    whole = percent(counts["all"])
    for key, count in sorted(counts.items()):
        if ": " not in key or percent(count) < whole:
            print(f"{key:40} {count[0]:5} of {count[1]:5}  {percent(count):5.1f} %")
    sys.exit(whole < args.at_least)


if __name__ == "__main__":
    main()
