#!/usr/bin/env python3
"""Greedy answers to held-out problems: exactness by operation, phrasing family and turn.

    evaluate.py --model MODEL_DIR [--count 1000] [--kinds mixed,plain,new,second] [--json FILE]
    evaluate.py --state DIR/state.pt --tokenizer DIR --weights bf16 ...

An answer is exact when the text after </think> ends in the right \\boxed{...} and nothing follows.
"""

import argparse
import collections
import json
import pathlib
import time

import torch

import checkpoint
import data
import problems
import tokenizer as text
from config import CONFIG
from export import rounded
from model import R1Tiny
from train import keep_memory
from transcript import answer

# Left of a shorter prompt of the same batch stand tokens that nobody looks at.
EOS, LIMIT, BATCH = 1, 260, 50


@torch.no_grad()
def generate(model, prompts):
    """Greedy continuations of lists of ids, up to and without EOS."""
    width = max(map(len, prompts))
    pads = torch.tensor([width - len(p) for p in prompts])
    ids = torch.tensor([[EOS] * (width - len(p)) + p for p in prompts])
    seen = torch.arange(width)[None] >= pads[:, None]
    caches = [[] for _ in model.layers]
    places = (torch.arange(width)[None] - pads[:, None]).clamp(min=0)
    # [B, 1, L, L]: causal, without the padding; a padded row sees itself.
    mask = (seen[:, None, :] & torch.ones(width, width, dtype=torch.bool).tril()) | torch.eye(
        width, dtype=torch.bool
    )
    hidden = model.hidden(ids, places, caches, mask[:, None])
    rows, made = list(range(len(prompts))), [[] for _ in prompts]
    for step in range(LIMIT):
        token = model.logits(hidden[:, -1]).argmax(-1)
        for row, t in zip(rows, token.tolist()):
            made[row].append(t)
        going = torch.nonzero(token != EOS).flatten()
        if len(going) == 0:
            break
        if len(going) < len(rows):
            rows = [rows[i] for i in going.tolist()]
            caches = [[t[going] for t in cache] for cache in caches]
            seen, pads, token = seen[going], pads[going], token[going]
        seen = torch.cat((seen, torch.ones(len(rows), 1, dtype=torch.bool)), 1)
        hidden = model.hidden(
            token[:, None], (width + step - pads)[:, None], caches, seen[:, None, None]
        )
    return [m[:-1] if m and m[-1] == EOS else m for m in made]


def exact(written, item):
    thought, mark, said = written.rpartition("</think>")
    right = f"\\boxed{{{answer(item['op'], item['a'], item['b'])}}}."
    return bool(mark) and said.endswith(right) and said.count("\\boxed") == 1


def answers(model, tokenizer, items, forced):
    """The text written for each item; `forced`: the prompt ends in "<think>\\n"."""
    prompts = [
        tokenizer.encode(
            data.prompt(item["messages"]) + ("<think>\n" if forced else ""),
            add_special_tokens=False,
        ).ids
        for item in items
    ]
    order, written = sorted(range(len(items)), key=lambda i: len(prompts[i])), [None] * len(items)
    for first in range(0, len(order), BATCH):
        part = order[first : first + BATCH]
        for i, ids in zip(part, generate(model, [prompts[i] for i in part])):
            written[i] = tokenizer.decode(ids, skip_special_tokens=False)
    return written


@torch.no_grad()
def draft_agreement(model, tokenizer, items):
    """How often MTP's draft is the main model's own next token, along the right reply."""
    same = total = 0
    for item in items:
        asked = tokenizer.encode(data.prompt(item["messages"]), add_special_tokens=False).ids
        ids = torch.tensor(
            [asked + tokenizer.encode(data.response(item), add_special_tokens=False).ids]
        )
        hidden = model.hidden(ids[:, :-1])
        chosen = model.logits(hidden)[0].argmax(-1)[len(asked) :]
        drafted = model.logits(model.draft(hidden, ids[:, :-1]))[0].argmax(-1)[len(asked) - 1 :]
        same, total = same + int((chosen == drafted).sum()), total + len(chosen)
    return same / total


def table(counts):
    return {
        key: f"{right}/{total} {100 * right / total:.1f}%"
        for key, (right, total) in sorted(counts.items())
    }


def evaluate(model, tokenizer, kind, count, seed, forced=None, show=5):
    """forced None: one half with either revision of the template."""
    items = problems.held_out_set(count, seed, kind)
    halves = (
        ((items, forced),) if forced is not None else ((items[::2], True), (items[1::2], False))
    )
    by = {
        name: collections.defaultdict(lambda: [0, 0])
        for name in ("operation", "family", "think in prompt")
    }
    wrong = []
    for part, force in halves:
        for item, written in zip(part, answers(model, tokenizer, part, force)):
            good = exact(written, item)
            for name, key in (
                ("operation", problems.NAME[item["op"]]),
                ("operation", "all"),
                ("think in prompt", str(force)),
                ("family", f"{problems.NAME[item['op']]}: {item['family']}"),
            ):
                by[name][key][0] += good
                by[name][key][1] += 1
            if not good:
                wrong.append((item, written))
    for item, written in wrong[:show]:
        print("  wrong:", [m["content"] for m in item["messages"]], "->", repr(written))
    return {name: table(counts) for name, counts in by.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, help="an exported checkpoint")
    parser.add_argument("--state", type=pathlib.Path, help="or a state of training")
    parser.add_argument("--tokenizer", type=pathlib.Path)
    parser.add_argument(
        "--weights", choices=("fp32", "bf16", "fp8"), default="bf16", help="of --state"
    )
    parser.add_argument("--kinds", default=",".join(problems.KINDS))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    if args.model:
        model, tokenizer = checkpoint.load(args.model), text.load(args.model)
    else:
        model, tokenizer = R1Tiny(CONFIG), text.load(args.tokenizer)
        model.load_state_dict(torch.load(args.state)["model"])
        if args.weights != "fp32":
            rounded(model, args.weights == "fp8")
        model.eval()
    results = {}
    for kind in args.kinds.split(","):
        began = time.time()
        results[kind] = evaluate(model, tokenizer, kind, args.count, args.seed)
        shown = {k: v for k, v in results[kind].items() if k != "family" or kind == "new"}
        print(kind, json.dumps(shown, indent=1), f"{time.time() - began:.0f} s", flush=True)
    results["draft agreement"] = draft_agreement(
        model, tokenizer, problems.held_out_set(100, args.seed, "mixed")
    )
    print("MTP's draft is the main model's token:", results["draft agreement"])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
