#!/usr/bin/env python3
"""Problems: which there are, which are held out, how they are asked in a conversation.

As a program it writes held-out problems for `whalepod generate --prompts`:

    problems.py --count 2000 --seed 1 --kind mixed --out problems.jsonl --expected expected.jsonl
"""

import argparse
import collections
import json
import random
import zlib

import words
from phrasings import families
from transcript import NOTHING_REPLY, answer, reply

OPS = ("+", "-", "*")
NAME = {"+": "addition", "-": "subtraction", "*": "product"}
SHARE = (0.36, 0.38, 0.26)
KINDS = ("plain", "mixed", "noisy", "new", "second")

# How often a text is in capitals, a number from 1,000 on has a comma, and a number repeats a digit
# ("50077"). What goes wrong most is trained more often than it is measured.
Shares = collections.namedtuple("Shares", "upper comma repeated")
MEASURED, TRAINED = Shares(0.12, 0.04, 0.0), Shares(0.24, 0.12, 0.06)


def held_out(op, a, b):
    """One pair of operands in twenty is never trained, in either order where order is no matter."""
    if op != "-":
        a, b = min(a, b), max(a, b)
    return zlib.crc32(f"{a}{op}{b}".encode()) % 20 == 0


def of_width(rng, width):
    return rng.randrange(10 ** (width - 1) if width > 1 else 0, 10**width)


def operands(rng, op, widest=5):
    if op == "*":
        pair = [of_width(rng, rng.choice((1, 2, 2, 3, 3, 3))), of_width(rng, 1)]
        if rng.random() < 0.3:
            pair.reverse()
        return pair
    kind = rng.random()
    a = of_width(rng, rng.randint(1, widest))
    if kind < 0.55:
        return a, of_width(rng, rng.randint(1, widest))
    b = of_width(rng, len(str(a)))
    if kind < 0.8:
        return a, b
    # Pairs that begin alike, sums with nines and zeros: long comparisons, carries and borrows.
    if kind < 0.92 and len(str(a)) > 1:
        same = rng.randrange(1, len(str(a)) + 1)
        return a, int(str(a)[:same] + str(b)[same:])
    digits = [rng.choice("0009990123456789") for _ in str(a)]
    pair = [int("".join(digits)), rng.choice((b, of_width(rng, rng.randint(1, widest))))]
    rng.shuffle(pair)
    return pair


def repeating(rng, n):
    """A number as long in which two digits, often neighbours, are the same."""
    digits = list(str(n))
    if len(digits) > 1:
        i = rng.randrange(len(digits) - 1)
        digits[rng.choice((i + 1, i + 1, len(digits) - 1))] = digits[i]
    return int("".join(digits))


def problem(rng, held, widest=5, repeated=0.0):
    while True:
        chosen = rng.choices(OPS, SHARE)[0]
        a, b = operands(rng, chosen, widest)
        if repeated and rng.random() < repeated:
            a, b = repeating(rng, a), repeating(rng, b)
        if held_out(chosen, a, b) == held:
            return chosen, a, b


def number(rng, n, comma):
    return f"{n:,}" if n >= 1000 and rng.random() < comma else str(n)


def typo(rng, text):
    """One letter of a word is lost, doubled or exchanged with its neighbour."""
    places = [i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    return rng.choice(
        (
            text[:i] + text[i + 1 :],
            text[:i] + text[i] + text[i:],
            text[:i] + text[i + 1] + text[i] + text[i + 2 :],
        )
    )


def noisy(rng, text):
    """Words put in where they change nothing, other punctuation, typos, spacing."""
    if rng.random() < 0.2:
        parts = text.split(" ")
        for _ in range(rng.choice((1, 1, 2, 3))):
            parts.insert(
                rng.randint(0, len(parts)), words.word(rng) + rng.choice(("", "", "", ","))
            )
        text = " ".join(parts)
    if rng.random() < 0.08:
        text = typo(rng, text)
    if rng.random() < 0.3:
        text = text.rstrip(".?!") + rng.choice(
            ("", "", ".", "?", "!", "??", "...", " ?", " .", "!!", " ")
        )
    if rng.random() < 0.03:
        text = text.replace(" ", "  ")
    return text


def surrounded(rng, text):
    """Something said before and after."""
    before = rng.random()
    if before < 0.25:
        text = (
            rng.choice(words.BEFORE) + rng.choice((", ", ": ", ". ", "! ", " ", "\n", " - ")) + text
        )
    elif before < 0.4:
        text = words.sentence(rng) + rng.choice((" ", " ", "\n")) + text
    after = rng.random()
    if after < 0.2:
        text = (
            text
            + rng.choice((" ", " ", "\n", ", "))
            + rng.choice(words.AFTER)
            + rng.choice((".", "?", "!", ""))
        )
    elif after < 0.3:
        text = text + rng.choice((" ", " ", "\n")) + words.sentence(rng)
    return text


def cased(rng, text, upper):
    kind = rng.random()
    if kind < 0.2:
        return text.lower()
    if kind < 0.2 + upper:
        return text.upper()
    if kind < 0.23 + upper:
        return text.title()
    return text


TABLES = {(op, new): families(op, new) for op in OPS for new in (False, True)}


def asked(rng, op, a, b, shares, new=False, plain=False):
    """(text, family, op, a, b): the operands may have changed places, as the text has them."""
    names = [n for n in TABLES[op, new] if a >= b or not n.endswith(">")]
    # Families that are an operation's own are asked more often than one in their number.
    own = [n for n in names if n not in TABLES["*" if op == "+" else "+", new]]
    family = rng.choice(own if rng.random() < 0.45 else names)
    text = TABLES[op, new][family](rng)
    if op != "-" and text.index("{b}") < text.index("{a}"):
        a, b = b, a
    if not plain:
        text = surrounded(rng, noisy(rng, text))
    text = cased(rng, text.replace("{a}", "\0").replace("{b}", "\1"), shares.upper)
    minus = rng.random()
    if op == "-" and minus < 0.06:
        text = text.replace("-", "−" if minus < 0.03 else "–")
    text = text.replace("\0", number(rng, a, shares.comma))
    return text.replace("\1", number(rng, b, shares.comma)), family, op, a, b


def off_topic(rng, shares):
    text = rng.choice(words.OFF_TOPIC) if rng.random() < 0.7 else words.sentence(rng)
    return cased(rng, text.rstrip(".!?") + rng.choice((".", "?", "!", "")), shares.upper)


def turns(rng, count, shares):
    """Earlier turns of a conversation, as a client sends them back."""
    messages = []
    for _ in range(count):
        if rng.random() < 0.1:
            question, said = off_topic(rng, shares), NOTHING_REPLY
        else:
            question, _, op, a, b = asked(rng, *problem(rng, False), shares)
            said = reply(op, a, b)
        # With the blank line that follows </think>, or without.
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": rng.choice(("\n\n", "")) + said},
        ]
    return messages


def system(rng):
    if rng.random() < 0.8:
        return rng.choice(words.SYSTEMS)
    return " ".join(words.sentence(rng) for _ in range(rng.randint(1, 3)))


def conversation(rng, held=False, kind="noisy"):
    """{"messages", "op", "a", "b", "family"}; op None asks for nothing. Kinds: "noisy" as trained:
    any phrasing, case, system prompt and turn, with typos, words that do not belong and sentences
    around; "mixed" the same without those three; "plain" a first turn without system prompt; "new"
    phrasings never trained, "second" a second turn, both otherwise as "mixed"."""
    messages, shares = [], MEASURED if held else TRAINED
    if kind != "plain" and rng.random() < 0.25:
        messages.append({"role": "system", "content": system(rng)})
    if kind == "second" or (kind in ("mixed", "noisy") and rng.random() < 0.2):
        messages += turns(rng, 1 if kind == "second" else rng.choice((1, 1, 2, 3)), shares)
    if not held and rng.random() < 0.025:
        messages.append({"role": "user", "content": off_topic(rng, shares)})
        return {"messages": messages, "op": None, "a": 0, "b": 0, "family": "nothing"}
    text, family, op, a, b = asked(
        rng,
        *problem(rng, held, repeated=shares.repeated),
        shares,
        new=kind == "new",
        plain=kind != "noisy",
    )
    messages.append({"role": "user", "content": text})
    return {"messages": messages, "op": op, "a": a, "b": b, "family": family}


def easy(rng):
    """What the first steps of training are mostly about: short numbers, asked plainly."""
    text, family, op, a, b = asked(rng, *problem(rng, False, widest=3), TRAINED, plain=True)
    return {
        "messages": [{"role": "user", "content": text}],
        "op": op,
        "a": a,
        "b": b,
        "family": family,
    }


def held_out_set(count, seed, kind="mixed"):
    rng = random.Random(f"{seed} {kind}")
    return [conversation(rng, held=True, kind=kind) for _ in range(count)]


def expected(item):
    """What score.py needs to know of a problem."""
    return {
        "answer": f"\\boxed{{{answer(item['op'], item['a'], item['b'])}}}",
        "operation": NAME[item["op"]],
        "family": item["family"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, default="mixed")
    parser.add_argument("--out", required=True, help="JSONL of messages")
    parser.add_argument("--expected", required=True, help="JSONL of what is right, line by line")
    args = parser.parse_args()
    with open(args.out, "w") as out, open(args.expected, "w") as right:
        for item in held_out_set(args.count, args.seed, args.kind):
            print(json.dumps({"messages": item["messages"]}, ensure_ascii=False), file=out)
            print(json.dumps(expected(item)), file=right)


if __name__ == "__main__":
    main()
