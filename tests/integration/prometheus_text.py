"""Prometheus' text format 0.0.4, read strictly: whatever is not as the format says is an error."""

import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
VALUE = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?Inf|NaN")
UNESCAPED = {'\\"': '"', "\\\\": "\\", "\\n": "\n"}


class Metrics:
    """One scrape: kinds by family, and the value of each series."""

    def __init__(self, text):
        self.kinds, self.helps, self._values = {}, {}, {}
        if not text.endswith("\n"):
            raise ValueError("no newline at the end")
        family = None
        for line in text[:-1].split("\n"):
            found = re.fullmatch(rf"# HELP ({NAME}) (.+)", line)
            if found:
                family = found.group(1)
                if family in self.helps:
                    raise ValueError(f"a second HELP: {line}")
                self.helps[family] = found.group(2)
                continue
            found = re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge|histogram)", line)
            if found:
                if found.group(1) != family or family in self.kinds:
                    raise ValueError(f"TYPE does not follow its HELP: {line}")
                self.kinds[family] = found.group(2)
                continue
            self._add_sample(family, line)
        for name, kind in self.kinds.items():
            if kind == "histogram":
                self._check_histogram(name)

    def _add_sample(self, family, line):
        found = SAMPLE.fullmatch(line)
        if not found or not VALUE.fullmatch(found.group(found.lastindex)):
            raise ValueError(f"not a sample: {line!r}")
        name = found.group(1)
        suffixes = ("_bucket", "_sum", "_count") if self.kinds.get(family) == "histogram" else ("",)
        if family not in self.kinds or name not in [family + suffix for suffix in suffixes]:
            raise ValueError(f"a sample outside its family {family}: {line!r}")
        pairs = re.findall(LABEL, found.group(2) or "")
        labels = {key: re.sub(r'\\["\\n]', lambda m: UNESCAPED[m.group()], value) for key, value in pairs}
        if len(labels) != len(pairs):
            raise ValueError(f"a label twice: {line!r}")
        if ("le" in labels) != name.endswith("_bucket"):
            raise ValueError(f"le is the label of buckets: {line!r}")
        series = (name, frozenset(labels.items()))
        if series in self._values:
            raise ValueError(f"a series twice: {line!r}")
        self._values[series] = float(found.group(found.lastindex).replace("Inf", "inf"))

    def _check_histogram(self, name):
        rows = {}
        for (series, labels), value in self._values.items():
            if series == name + "_bucket":
                bound = float(dict(labels)["le"].replace("Inf", "inf"))
                rest = frozenset(pair for pair in labels if pair[0] != "le")
                rows.setdefault(rest, []).append((bound, value))
        for labels, buckets in rows.items():
            buckets.sort()
            counts = [count for _, count in buckets]
            if counts != sorted(counts) or buckets[-1][0] != math.inf:
                raise ValueError(f"buckets of {name}{dict(labels)}: {buckets}")
            if self._values[name + "_count", labels] != counts[-1]:
                raise ValueError(f"{name}{dict(labels)}: the count is not the last bucket's")
            if (name + "_sum", labels) not in self._values:
                raise ValueError(f"{name}{dict(labels)} has no sum")

    def labels_of(self, name):
        """The label sets of a series' name, as dicts."""
        return [dict(labels) for series, labels in self._values if series == name]

    def get(self, name, **labels):
        """The sum over all series of this name that have these labels; 0 where none has."""
        wanted = set(labels.items())
        return sum(value for (series, have), value in self._values.items() if series == name and wanted <= have)

    def has(self, name):
        return any(series == name for series, _ in self._values)
