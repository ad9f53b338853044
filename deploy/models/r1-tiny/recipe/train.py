#!/usr/bin/env python3
"""Trains r1-tiny from nothing: tokenizer, model, FP8 checkpoint.

    train.py --out DIR [--steps N] [--seed S] [--threads T]

DIR/state.pt is written every few hundred steps and gone on from when it is there; DIR/model holds
the result.
"""

import argparse
import ctypes
import os
import pathlib
import random
import time

# Threads that wait do not spin: the other one may need their core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import data
import export
import problems
import tokenizer as text
from config import CONFIG
from model import R1Tiny, loss
from optimizer import optimizers

# Without decay Muon's steps, of one size however unsure the gradient, make the weights walk off: after
# 900 steps the residual stream stood at 200 times its first size, attention looked at single places
# and learned no more.
MUON_LR, DECAY, ADAM_LR, EXPERT_GAIN = 0.02, 0.5, 1.5e-3, 0.5
# The learning rate goes down twice; the second descent, from half the height, took 91.6 % of exact
# answers (noisy problems) to 94.5 %.
# (until this share of the steps, from this height, flat for this share of it)
CYCLES = ((0.6, 1.0, 0.5), (1.0, 0.5, 0.0))
WARM_UP, FLOOR = 100, 0.02
# The correction bias stands still for the last part of each descent.
BIAS_STEP, BIAS_REST = 0.003, 0.05
TOKENS, MTP_WEIGHT = 2500, 0.3
# Nearly all problems are easy at first, until digits are copied; none is after a fifth.
EASE, EASY_TO, HARD_FROM = 0.95, 0.048, 0.18
SAVE_EVERY, PROBE_EVERY, LOG_EVERY = 100, 250, 10


def keep_memory():
    """glibc gives freed memory back and takes page faults for it again: three times as slow."""
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_mmap_max = -1, -4
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, -1)


def cycle(step, steps):
    """(begin, end, height, end of the flat part) of the cycle that the step is in"""
    begin = 0.0
    for until, height, flat in CYCLES:
        end = until * steps
        if step < end:
            return begin, end, height, begin + flat * (end - begin)
        begin = end
    raise ValueError(f"step {step} of {steps}")


def rate(step, steps):
    _, end, height, flat = cycle(step, steps)
    down = 1 - (1 - FLOOR) * max(0.0, (step - flat) / (end - flat))
    return min(1.0, (step + 1) / WARM_UP) * height * down


def balancing(step, steps):
    begin, end, _, _ = cycle(step, steps)
    return step < end - BIAS_REST * (end - begin)


def ease(step, steps):
    return EASE * min(1.0, max(0.0, (HARD_FROM - step / steps) / (HARD_FROM - EASY_TO)))


@torch.no_grad()
def probe(model, tokenizer, seed, count=48):
    """How many of `count` held-out problems are written without one wrong token, by kind: what
    greedy decoding would get right, for one forward."""
    model.eval()
    result = {}
    for kind in ("mixed", "new"):
        right = {op: [] for op in problems.OPS}
        for item in problems.held_out_set(count, seed, kind):
            asked = tokenizer.encode(data.prompt(item["messages"]), add_special_tokens=False).ids
            ids = asked + tokenizer.encode(data.response(item), add_special_tokens=False).ids
            guess = model.logits(model.hidden(torch.tensor([ids[:-1]])))[0].argmax(-1)
            right[item["op"]].append(guess[len(asked) - 1 :].tolist() == ids[len(asked) :])
        result[kind] = " ".join(f"{op}{sum(r)}/{len(r)}" for op, r in right.items())
    model.train()
    return result


def balance(model):
    """The correction bias goes up for experts with little load and down for those with much."""
    for moe in model.moes():
        if moe.load.sum() > 0:
            moe.e_score_correction_bias += BIAS_STEP * torch.sign(moe.load.mean() - moe.load)
            moe.load = torch.zeros_like(moe.load)


def train(folder, steps, seed, threads, stop_at):
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = text.load(folder)
    model = R1Tiny(CONFIG)
    made = optimizers(model, MUON_LR, DECAY, ADAM_LR)
    gains = (MUON_LR, ADAM_LR, MUON_LR * EXPERT_GAIN)
    batches = data.batches(tokenizer, seed, TOKENS, lambda step: ease(step, steps))
    first, state = 0, folder / "state.pt"
    if state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        for optimizer, kept in zip(made, saved["optimizers"]):
            optimizer.load_state_dict(kept)
        first = saved["step"]
        for _ in range(first):
            next(batches)
        print(f"going on from step {first}", flush=True)
    began, used, tokens, losses = time.time(), time.process_time(), 0, []
    end = min(steps, stop_at or steps)
    for step in range(first, end):
        ids, mask = next(batches)
        # MTP is trained, and the experts are stepped, every second time.
        total, main, mtp = loss(model, ids, mask, MTP_WEIGHT if step % 2 == 0 else 0)
        total.backward()
        scale = rate(step, steps)
        for optimizer, gain in zip(made, gains):
            for group in optimizer.param_groups:
                group["lr"] = gain * scale
        for optimizer in made if step % 2 else made[:2]:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            loads = [float(m.load.max() / m.load.mean().clamp(min=1)) for m in model.moes()]
            if balancing(step, steps):
                balance(model)
        tokens += ids.numel()
        losses.append(float(main))
        if step % 2 == 0 and step % LOG_EVERY == 0:
            print(
                f"step {step} loss {sum(losses) / len(losses):.4f} mtp {float(mtp):.4f} "
                f"rate {scale:.3f} load {max(loads):.2f} tokens {tokens} wall {time.time() - began:.0f} s "
                f"cpu {time.process_time() - used:.0f} s",
                flush=True,
            )
            losses = []
        if (step + 1) % PROBE_EVERY == 0:
            print(
                f"step {step + 1} without a wrong token: {probe(model, tokenizer, step)}",
                flush=True,
            )
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == end:
            new = folder / "state.new"
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in made],
                    "step": step + 1,
                },
                new,
            )
            new.rename(state)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--stop-at", type=int, help="end at this step of the schedule; DIR/state.pt goes on"
    )
    args = parser.parse_args()
    keep_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    random.seed(args.seed)
    if not (args.out / "tokenizer.json").exists():
        text.write(args.out, args.seed)
    model = train(args.out, args.steps, args.seed, args.threads, args.stop_at)
    export.write(model, args.out, args.out / "model")


if __name__ == "__main__":
    main()
