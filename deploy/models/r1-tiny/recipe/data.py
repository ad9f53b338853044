"""Training sequences, in batches of like length: a conversation and the reply that is wanted."""

import random

import torch

import problems
from tokenizer import BOS, EOS
from transcript import NOTHING, NOTHING_REPLY, reasoning, reply


def prompt(messages):
    """The conversation up to <｜Assistant｜>, as the chat template renders it. Both of its revisions
    go on from here: one writes "<think>\\n" itself, the other leaves that to the model."""
    text = BOS + "".join(m["content"] for m in messages if m["role"] == "system")
    for message in messages:
        if message["role"] == "user":
            text += "<｜User｜>" + message["content"]
        elif message["role"] == "assistant":
            text += "<｜Assistant｜>" + message["content"].split("</think>")[-1] + EOS
    return text + "<｜Assistant｜>"


def response(item):
    if item["op"] is None:
        thought, said = NOTHING, NOTHING_REPLY
    else:
        thought = reasoning(item["op"], item["a"], item["b"])
        said = reply(item["op"], item["a"], item["b"])
    return f"<think>\n{thought}</think>\n\n{said}{EOS}"


def sequence(tokenizer, rng, ease=0.0):
    """(ids, length of the prompt); `ease`: how likely the problem is an easy one."""
    item = problems.easy(rng) if rng.random() < ease else problems.conversation(rng)
    asked = tokenizer.encode(prompt(item["messages"]), add_special_tokens=False).ids
    return asked + tokenizer.encode(response(item), add_special_tokens=False).ids, len(asked)


def batches(tokenizer, seed, tokens, ease, pool=512):
    """Endless (ids [B, L], mask [B, L]) of about `tokens` places. A batch holds sequences of like
    length; the batches of a pool come in random order. `ease` is a function of the batch's number.
    """
    rng, count = random.Random(seed), 0
    while True:
        share = ease(count)
        made = sorted(
            (sequence(tokenizer, rng, share) for _ in range(pool)), key=lambda s: len(s[0])
        )
        batch, ready = [], []
        for item in made:
            if batch and (len(batch) + 1) * len(item[0]) > tokens:
                ready.append(batch)
                batch = []
            batch.append(item)
        # The rest, the longest of the pool, is a batch too.
        ready.append(batch)
        rng.shuffle(ready)
        count += len(ready)
        for batch in ready:
            length = max(len(ids) for ids, _ in batch)
            ids = torch.ones(len(batch), length, dtype=torch.long)
            mask = torch.zeros(len(batch), length, dtype=torch.bool)
            for row, (sequence_ids, asked) in enumerate(batch):
                ids[row, : len(sequence_ids)] = torch.tensor(sequence_ids)
                mask[row, asked : len(sequence_ids)] = True
            yield ids, mask
