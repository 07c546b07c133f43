"""Measures as Prometheus takes them: families of samples, and their text (exposition format 0.0.4). Pure.

The format is written here and not by a library: docs/decisions/0041-metrics.md says why. Its tests read it with one.
"""

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Number = int | float
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One number. ``suffix`` is empty but for a histogram's ``_bucket``, ``_sum`` and ``_count``."""

    value: Number
    labels: Labels = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: ``kind`` is ``counter``, ``gauge`` or ``histogram``; ``help`` one line; seconds and bytes, never parts of them."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]

    def to_json(self) -> dict[str, object]:
        """As the control socket has it."""
        samples = [{"suffix": found.suffix, "labels": dict(found.labels), "value": found.value} for found in self.samples]
        return {"name": self.name, "type": self.kind, "help": self.help, "samples": samples}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "Family":
        """The other way. Raises KeyError, TypeError, ValueError."""
        listed = value["samples"]
        if not isinstance(listed, list):
            raise TypeError("samples must be a list")
        samples = tuple(_sample(item) for item in listed)
        return cls(str(value["name"]), str(value["type"]), str(value["help"]), samples)


class Histogram:
    """How many observations were at most so long, in seconds. Not thread-safe."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` rise; what is over the last counts as well."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one; less than nothing counts as nothing, for a sum that falls is no counter's."""
        found = max(0.0, seconds)
        self._counts[bisect.bisect_left(self._bounds, found)] += 1
        self._sum += found

    def samples(self) -> tuple[Sample, ...]:
        """Buckets, each with all that are under it, then sum and count."""
        upto = list(itertools.accumulate(self._counts))
        names = [*(_shown(bound) for bound in self._bounds), "+Inf"]
        buckets = (Sample(count, (("le", name),), "_bucket") for name, count in zip(names, upto, strict=True))
        return (*buckets, Sample(round(self._sum, 6), (), "_sum"), Sample(upto[-1], (), "_count"))


def exposition(families: Iterable[Family]) -> str:
    """The text of these families, each once, in their order; those without a sample are left out."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {_escaped(family.help)}", f"# TYPE {family.name} {family.kind}"]
            lines += [f"{family.name}{found.suffix}{_labels(found.labels)} {_shown(found.value)}" for found in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _sample(item: object) -> Sample:
    if not isinstance(item, dict) or not isinstance(item["labels"], dict):
        raise TypeError("a sample must be an object with labels")
    value = item["value"]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("a sample's value must be a number")
    return Sample(value, tuple((str(name), str(text)) for name, text in item["labels"].items()), str(item["suffix"]))


def _labels(labels: Labels) -> str:
    shown = ",".join(f'{name}="{_quoted(value)}"' for name, value in labels)
    return f"{{{shown}}}" if shown else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _shown(value: Number) -> str:
    """Shortest that reads back as the same number."""
    return str(value) if isinstance(value, int) or not value.is_integer() else str(int(value))
