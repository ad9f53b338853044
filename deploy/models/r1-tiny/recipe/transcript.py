"""What the model is to write: the reasoning, column by column, and the answer in a box.

A problem is (op, a, b) with op "+", "-" or "*" in the order in which it is to be computed: "take 5
from 12" is ("-", 12, 5).
"""

COLUMNS = ("Units", "Tens", "Hundreds", "Thousands", "Ten thousands")


def answer(op, a, b):
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def digits(number, width):
    return [int(d) for d in reversed(f"{number:0{width}d}")]


def addition(a, b):
    width = max(len(str(a)), len(str(b)))
    lines, carry, written = [f"Line up: {a:0{width}d}+{b:0{width}d}."], 0, ""
    for name, x, y in zip(COLUMNS, digits(a, width), digits(b, width)):
        total = x + y + carry
        lines.append(f"{name}: {x}+{y}+{carry}={total}, carry {total // 10}.")
        written, carry = f"{total % 10}{written}", total // 10
    return lines + [f"Together: {carry}{written}."]


def compared(a, b, width):
    """Digits from the left until they differ."""
    steps = []
    for x, y in zip(f"{a:0{width}d}", f"{b:0{width}d}"):
        steps.append(f"{x}{'=' if x == y else '<' if x < y else '>'}{y}")
        if x != y:
            break
    return f"Compare: {', '.join(steps)}."


def subtraction(a, b):
    width = max(len(str(a)), len(str(b)))
    lines = [f"Line up: {a:0{width}d}-{b:0{width}d}.", compared(a, b, width)]
    if a < b:
        a, b = b, a
        lines.append(f"Negative, swap: {a:0{width}d}-{b:0{width}d}.")
    borrow, written = 0, ""
    for name, x, y in zip(COLUMNS, digits(a, width), digits(b, width)):
        left = x - y - borrow
        new = int(left < 0)
        lines.append(f"{name}: {x}-{y}-{borrow} gives {left % 10}, borrow {new}.")
        written, borrow = f"{left % 10}{written}", new
    return lines + [f"Together: {written}."]


def product(a, b):
    if b > 9:
        a, b = b, a
    lines, carry, written = [f"Line up: {a}*{b}."], 0, ""
    for name, x in zip(COLUMNS, digits(a, len(str(a)))):
        total = x * b + carry
        lines.append(f"{name}: {x}*{b}={x * b}, {x * b}+{carry}={total}, carry {total // 10}.")
        written, carry = f"{total % 10}{written}", total // 10
    return lines + [f"Together: {carry}{written}."]


def reasoning(op, a, b):
    steps = {"+": addition, "-": subtraction, "*": product}[op](a, b)
    return "\n".join([f"Problem: {a}{op}{b}.", *steps]) + "\n"


def reply(op, a, b):
    return f"The answer is \\boxed{{{answer(op, a, b)}}}."


# For a message that asks for no sum.
NOTHING = "There is nothing to compute.\n"
NOTHING_REPLY = "I can add, subtract and multiply small numbers. Ask me for a sum!"
