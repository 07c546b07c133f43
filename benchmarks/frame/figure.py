"""Numbers out of measured values: median, p99, max, n, quartiles; ratios of two, with the interval that the spread leaves."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLED = 400
_SEED = 7  # the same values give the same interval
_KEPT = 240  # values that a result file keeps of one figure
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured of one case in one way. ``values`` in the order they came, of ``unit``.

    ``never`` counts the times that it had not happened within ``waited_s`` seconds: these have no value.
    """

    unit: str
    values: tuple[float, ...]
    never: int = 0
    waited_s: float = 0.0

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """By nearest rank: with fewer than a hundred values the largest."""
        ordered = sorted(self.values)
        return ordered[-(-99 * len(ordered) // 100) - 1]

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third; of one value that value."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def get(self, what: str) -> float | None:
        """``median``, ``p99`` or ``max``; None where nothing was measured, or where it would be one that never came."""
        if not self.values or (self.never and what != "median"):
            return None
        if self.never * 2 >= len(self.values) + self.never:
            return None
        return {"median": self.median, "p99": self.p99, "max": max(self.values)}[what]

    def to_json(self) -> dict[str, object]:
        """As result files have it: rounded to four digits, long series thinned out evenly."""
        found: dict[str, object] = {"unit": self.unit, "n": len(self.values) + self.never}
        if self.values:
            kept = self.values if len(self.values) <= _KEPT else thinned(sorted(self.values), _KEPT)
            numbers = {"median": self.median, "p99": self.p99, "max": max(self.values)}
            found |= {name: rounded(value) for name, value in numbers.items()}
            found |= {"quartiles": [rounded(value) for value in self.quartiles], "values": [rounded(value) for value in kept]}
        if self.never:
            found |= {"never": self.never, "waited_s": rounded(self.waited_s)}
        return found


@dataclass(frozen=True, slots=True)
class Ratio:
    """One median over another, and where 95 of 100 resamplings of the same values have it."""

    value: float
    low: float
    high: float


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Ours over theirs. Series of one length came in turns and are resampled turn by turn: what slowed both counts for neither.

    None where either has nothing above zero to divide.
    """
    if not ours or not theirs or statistics.median(ours) <= 0 or statistics.median(theirs) <= 0:
        return None
    draw = random.Random(_SEED)  # noqa: S311  (no secret)
    found = []
    for _ in range(_RESAMPLED):
        turns = draw.choices(range(len(ours)), k=len(ours))
        others = turns if len(ours) == len(theirs) else draw.choices(range(len(theirs)), k=len(theirs))
        below = statistics.median([theirs[turn] for turn in others])
        if below > 0:
            found.append(statistics.median([ours[turn] for turn in turns]) / below)
    found.sort()
    edge = len(found) // 40
    return Ratio(statistics.median(ours) / statistics.median(theirs), found[edge], found[-1 - edge])


def thinned(ordered: Sequence[float], count: int) -> list[float]:
    """That many of them, evenly over their ranks, the first and the last included."""
    last = len(ordered) - 1
    return [ordered[round(place * last / (count - 1))] for place in range(count)]


def rounded(value: float) -> float:
    """To four significant digits."""
    return float(f"{value:.{_DIGITS}g}")
