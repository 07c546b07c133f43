"""A row of the table: what is measured, what it must reach, and the collector that its measuring fills."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from benchmarks.frame.figure import Figure, Ratio, ratio

OURS = "tidegate"
T = TypeVar("T")
What = Literal["median", "p99", "max", "ratio"]


class Absent(Exception):  # noqa: N818  (an answer)
    """Why there is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Of one case: ``what`` of ``way`` is at most (``least``: at least) ``limit``; a ratio is over ``against``."""

    case: str
    what: What
    limit: float
    way: str = OURS
    against: str = ""
    least: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of some cases. ``growth``: cases begin with numbers, on the x axis; ``spread``: each value of each way, sorted."""

    kind: Literal["growth", "spread"]
    title: str
    cases: tuple[str, ...]
    axis: str = ""  # what the numbers on the x axis are


@dataclass(frozen=True, slots=True)
class Row:
    """``about`` says how it is measured, ``ways`` names each way, ``limits`` the ways (by case) that no agent can go below."""

    name: str
    title: str
    about: str
    measure: "Callable[[Run], None]"
    goals: tuple[Goal, ...]
    ways: Mapping[str, str]
    limits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plots: tuple[Plot, ...] = ()
    more_is_better: bool = False


@dataclass(slots=True)
class Run:
    """What one measuring of one row has found so far. ``quick`` asks for few values; ``case`` → ``way`` → figure."""

    name: str
    quick: bool = False
    tell: Callable[[str], None] = lambda _line: None
    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)
    parts: dict[str, dict[str, Figure]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, way: str, unit: str, *values: float) -> None:
        """One more value, or several."""
        _add(self.figures, case, way, unit, values)

    def part(self, case: str, what: str, unit: str, *values: float) -> None:
        """What some part of our own way takes, measured by itself: shown where a goal of that case is missed."""
        _add(self.parts, case, what, unit, values)

    def never(self, case: str, way: str, unit: str, waited_s: float) -> None:
        """It had not happened after so long."""
        before = self.figures.setdefault(case, {}).get(way, Figure(unit, ()))
        self.figures[case][way] = Figure(unit, before.values, before.never + 1, max(waited_s, before.waited_s))

    def leave_out(self, way: str, why: object) -> None:
        """A way that can't be measured here."""
        self.absent[way] = str(why)
        self.tell(f"left out: {way}: {why}")

    def had(self, ways: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """What each makes, of those that can be had here; one that raises Absent is left out."""
        found: dict[str, T] = {}
        for way, make in ways.items():
            try:
                found[way] = make()
            except Absent as absent:
                self.leave_out(way, absent)
        return found

    def times(self, full: int, quick: int) -> int:
        """How often."""
        return quick if self.quick else full

    def turns(self, full: int, quick: int, ways: Mapping[str, Callable[[], None]], what: str = "") -> None:
        """A B A B: each way once, then again. A way that raises Absent is left out from then on."""
        left = dict(ways)
        rounds = self.times(full, quick)
        for number in range(rounds):
            for way, act in list(left.items()):
                self.tell(f"{what or self.name}: {number + 1} of {rounds}, {way}")
                try:
                    act()
                except Absent as absent:
                    self.leave_out(way, absent)
                    del left[way]

    def ratios(self) -> dict[str, dict[str, Ratio]]:
        """By case: ours over each other way's."""
        found: dict[str, dict[str, Ratio]] = {}
        for case, ways in self.figures.items():
            for way, theirs in ways.items():
                ours = ways.get(OURS)
                if way != OURS and ours is not None and ours.unit == theirs.unit:
                    over = ratio(ours.values, theirs.values)
                    found.setdefault(case, {}).update({way: over} if over else {})
        return found


def _add(into: dict[str, dict[str, Figure]], case: str, way: str, unit: str, values: Sequence[float]) -> None:
    before = into.setdefault(case, {}).get(way, Figure(unit, ()))
    if before.unit != unit:
        raise ValueError(f"{case}, {way}: {unit} after {before.unit}")
    into[case][way] = Figure(unit, (*before.values, *values), before.never, before.waited_s)


def judged(goal: Goal, run: Run) -> dict[str, object]:
    """The goal, what was found, and whether that meets it; ``found`` and ``met`` are None where there is nothing to judge."""
    figure = run.figures.get(goal.case, {}).get(goal.way)
    found: float | None
    if goal.what == "ratio":
        over = run.ratios().get(goal.case, {}).get(goal.against)
        found, unit = (over.value if over else None), ""
    else:
        found, unit = (figure.get(goal.what) if figure else None), (figure.unit if figure else "")
    met = None if found is None else (found >= goal.limit if goal.least else found <= goal.limit)
    if met is None and figure is not None and figure.never and goal.what != "ratio":
        met = False
    head = {"case": goal.case, "way": goal.way, "what": goal.what, "against": goal.against, "limit": goal.limit}
    return {**head, "least": goal.least, "unit": unit, "found": found, "met": met}


class Teller:
    """Lines on stderr: since when, and what is being done; on a terminal one line that is written over."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._spoke = -10.0

    def __call__(self, line: str) -> None:
        """Every change on a terminal; elsewhere one line in five seconds."""
        now = time.monotonic() - self._began
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K[{now:6.1f} s] {line}")
        elif now - self._spoke >= 5:
            sys.stderr.write(f"[{now:6.1f} s] {line}\n")
            self._spoke = now
        sys.stderr.flush()
