"""Whether something became slower: ratios against the last committed results, beyond what the spread of either explains.

Ratios, since the machine may be another one or busier; a figure with no peer is compared with itself only on the same processor
and kernel. Two intervals that do not touch, and a tenth between the values, make a change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.frame.results import Result
from benchmarks.frame.row import OURS

_LEAST = 1.10  # a smaller change is none, however narrow the spread
_SAME = ("cores", "processor", "kernel")


@dataclass(frozen=True, slots=True)
class Change:
    """``was`` and ``now``: value, low, high of the same ratio (or of the figure itself, ``against`` empty)."""

    row: str
    case: str
    against: str
    was: tuple[float, float, float]
    now: tuple[float, float, float]
    worse: bool

    def __str__(self) -> str:
        of = f"over {self.against}" if self.against else "by itself"
        was, now = (f"{value:.3g} ({low:.3g} to {high:.3g})" for value, low, high in (self.was, self.now))
        return f"{'slower' if self.worse else 'faster'}: {self.row}, {self.case}, {of}: {was} -> {now}"


def changes(before: Result, after: Result, *, more_is_better: bool = False) -> list[Change]:
    """What changed in one row, the worse first."""
    found = [
        Change(after["row"], case, against, was, now, worse=(now[0] > was[0]) is not more_is_better)
        for case, against, was, now in (*_ratios(before, after), *_alone(before, after))
        if _apart(was, now)
    ]
    return sorted(found, key=lambda change: not change.worse)


_Pair = tuple[str, str, tuple[float, float, float], tuple[float, float, float]]


def _ratios(before: Result, after: Result) -> Iterator[_Pair]:
    for case, ways in after["ratios"].items():
        for way, over in ways.items():
            if was := before["ratios"].get(case, {}).get(way):
                yield case, way, _triple(was), _triple(over)


def _alone(before: Result, after: Result) -> Iterator[_Pair]:
    if any(before["machine"].get(name) != after["machine"].get(name) for name in _SAME):
        return
    for case, ways in after["cases"].items():
        was, now = before["cases"].get(case, {}).get(OURS), ways.get(OURS)
        if was and now and not after["ratios"].get(case) and min(was.get("median", 0), now.get("median", 0)) > 0:
            yield case, "", _spread(was), _spread(now)


def _apart(was: tuple[float, float, float], now: tuple[float, float, float]) -> bool:
    far = max(was[0], now[0]) >= _LEAST * min(was[0], now[0])
    return far and (now[1] > was[2] or now[2] < was[1])


def _triple(over: dict[str, Any]) -> tuple[float, float, float]:
    return float(over["value"]), float(over["low"]), float(over["high"])


def _spread(figure: dict[str, Any]) -> tuple[float, float, float]:
    low, high = figure["quartiles"]
    return float(figure["median"]), float(low), float(high)
