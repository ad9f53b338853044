"""Training sequences, in batches of like length: a conversation and the reply that is wanted."""

import random

import torch

import problems
from tokenizer import BOS, EOS
from transcript import NOTHING, NOTHING_REPLY, reasoning, reply

# This share of the replies is trained only to where the problem has been read: nearly all errors are
# made there, and twice as many problems fit into a batch.
BRIEF, BRIEF_LINES = 0.5, 2


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


def beginning(item):
    """The response up to where the problem has been copied and lined up."""
    lines = response(item).split("\n")
    return "\n".join(lines[: 1 + BRIEF_LINES]) + "\n"


def sequence(tokenizer, rng, ease=0.0):
    """(ids, length of the prompt); `ease`: how likely the problem is an easy one."""
    easy = rng.random() < ease
    item = problems.easy(rng) if easy else problems.conversation(rng)
    brief = not easy and item["op"] is not None and rng.random() < BRIEF
    asked = tokenizer.encode(prompt(item["messages"]), add_special_tokens=False).ids
    said = beginning(item) if brief else response(item)
    return asked + tokenizer.encode(said, add_special_tokens=False).ids, len(asked)


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
