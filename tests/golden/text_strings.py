"""Random strings that are hard on tokenizers, and conversations, from a seed; tests/coordinator/text/text_strings.cc makes the
same ones, so that goldens need only hold a hash for each.

Many scripts, emoji, digits of all kinds, code, spaces, control characters, marks in any order, long runs,
names of control tokens whole and cut, and any code point that Unicode 14 has. Later ones are left out: what
they are to a regular expression depends on its engine's version.
"""

import unicodedata

assert unicodedata.unidata_version == "14.0.0", "Python 3.11 has Unicode 14"
MASK = (1 << 64) - 1

WORDS = ["the", "Whale", "pod", "RUN", "it's", "I'll", "WE'VE", "don't", "x86", "naïve", "café", "Straße",
         "ſtop", "she'ſ", "hello,", "world!", "(a)", "[b]", "\"q\"", "a.b", "e.g.", "--flag", "#tag", "$HOME",
         "C++", "http://a.io/?x=1&y=2", "_under_score", "CamelCase", "日本語", "こんにちは", "カタカナ", "中文",
         "한국어", "ไทย", "हिन्दी", "עברית", "العربية", "русский", "ελληνικά", "Ω", "ﬁ", "Å", "①", "½", "٣٤٥", "１２３"]
CODE = ["def f(x):\n    return x**2  # note\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "<a href=\"#\">b</a>",
        "{\"k\": [1, 2.5e-3, null]}", "SELECT * FROM t WHERE a='b';", "\\boxed{405}", "x = y if z else w\r\n",
        "$$\\frac{a}{b}$$", "let v: Vec<u8> = vec![0; 1_000];", "#include <vector>\n\n", "```cpp\nint main() {}\n```"]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", " \n", "\n ", " \t ", "\u00a0", "\u3000", "\u2003", "\u180e",
          "\u200b", "\u0085", "\u2028", "\u2029", "\u202f", "\u205f", "\u1680", "\ufeff", "\x0b", "\x0c"]
NAMES = ["<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|EOT|>",
         "<｜tool▁sep｜>", "<｜▁pad▁｜>", "<｜fim▁hole｜>", "<tool_call>", "<|fim_pad|>", "<｜User", "<thin", "</think", "<|", "｜>",
         "<<think>>", "<｜place▁holder▁no▁12｜>"]
# First and last code point.
RANGES = [(0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x5FF),
          (0x600, 0x6FF), (0x700, 0x7BF), (0x900, 0x97F), (0x980, 0xDFF), (0xE00, 0xEFF), (0xF00, 0xFFF),
          (0x1000, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x139F), (0x13A0, 0x167F), (0x1780, 0x18AF), (0x1E00, 0x1FFF),
          (0x2000, 0x206F), (0x2070, 0x218F), (0x2190, 0x23FF), (0x2460, 0x27BF), (0x2C00, 0x2DFF), (0x3000, 0x30FF),
          (0x3100, 0x33FF), (0x4E00, 0x9FFF), (0x9F00, 0xA4CF), (0xA500, 0xABFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF),
          (0xFB00, 0xFDFF), (0xFE00, 0xFE6F), (0xFF00, 0xFFEF), (0x10000, 0x103FF), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F),
          (0x20000, 0x2A6DF), (0x2F800, 0x2FA1F)]
DIGITS = [0x30, 0x660, 0x6F0, 0x966, 0xE50, 0xFF10, 0x1D7CE, 0x2460, 0x2160, 0x3021]
EMOJI = [(0x1F300, 0x1F64F), (0x1F680, 0x1F6FC), (0x1F900, 0x1F9FF), (0x2600, 0x27BF), (0x1F1E6, 0x1F1FF)]
MARKS = [(0x300, 0x36F), (0x591, 0x5BD), (0x610, 0x61A), (0x64B, 0x65F), (0x93C, 0x94D), (0xF71, 0xF84), (0x3099, 0x309A),
         (0x1DC0, 0x1DFF), (0x20D0, 0x20F0), (0x1D165, 0x1D172)]


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % limit

    def pick(self, items):
        return items[self.below(len(items))]

    def code_point(self, bounds):
        first, last = bounds
        return chr(first + self.below(last - first + 1))


def words(r):
    out = ""
    for _ in range(1 + r.below(8)):
        out += r.pick(WORDS)
        if r.below(4) > 0:
            out += " "
    return out


def digits(r):
    zero = r.pick(DIGITS)
    return "".join(chr(zero + r.below(10)) for _ in range(1 + r.below(12)))


def script(r):
    bounds = r.pick(RANGES)
    return "".join(r.code_point(bounds) for _ in range(1 + r.below(12)))


def emoji(r):
    out = ""
    for _ in range(1 + r.below(4)):
        out += r.code_point(r.pick(EMOJI))
        out += ["", "\ufe0f", "\u200d", "\U0001f3fd"][r.below(4)]
    return out


def controls(r):
    return "".join(chr(r.below(32)) if r.below(3) > 0 else chr(127 + r.below(33)) for _ in range(1 + r.below(5)))


def marks(r):
    out = r.code_point(r.pick(RANGES))
    for _ in range(1 + r.below(6)):
        out += r.code_point(r.pick(MARKS))
    return out


def run(r):
    kind = r.below(3)
    if kind == 0:
        unit = r.code_point(r.pick(RANGES))
    elif kind == 1:
        unit = r.pick(SPACES)
    else:
        unit = chr(0x21 + r.below(94))
    return unit * (1 + r.below(120))


def anything(r):
    out = ""
    for _ in range(1 + r.below(6)):
        code = r.below(0x110000 - 0x800)
        out += chr(code if code < 0xD800 else code + 0x800)
    return out


def spaces(r):
    return "".join(r.pick(SPACES) for _ in range(1 + r.below(4)))


KINDS = [words, words, words, digits, lambda r: r.pick(CODE), spaces, spaces, script, script, emoji, controls, marks,
         run, anything, lambda r: r.pick(NAMES)]


def assigned(text):
    """Without code points that Unicode 14 doesn't assign."""
    return "".join(c for c in text if unicodedata.category(c) != "Cn")


def make_string(seed):
    r = Random(seed)
    return assigned("".join(r.pick(KINDS)(r) for _ in range(1 + r.below(8))))


def make_chat(seed, tools):
    """Messages as apply_chat_template takes them. For an even seed without "<" in what is kept of them, so that no
    message has a control token."""
    r = Random(seed + (1 << 40))
    clean = seed % 2 == 0

    def text():
        out = make_string(r.below(1 << 40))
        return out.replace("<", "") if clean else out

    messages = []
    for _ in range(1 + r.below(6)):
        kind = r.below(8 if tools else 6)
        if kind == 0:
            messages.append({"role": "system", "content": text()})
        elif kind <= 2:
            messages.append({"role": "user", "content": text()})
        elif kind <= 4 or (kind == 5 and clean and tools):
            messages.append({"role": "assistant", "content": text()})
        elif kind == 5:
            messages.append({"role": "assistant", "content": text() + "</think>" + text()})
        elif kind == 6:
            messages.append({"role": "tool", "content": text()})
        else:
            calls = [{"type": "function", "function": {"name": "f" + text(), "arguments": text()}}
                     for _ in range(1 + r.below(3))]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
    return messages
