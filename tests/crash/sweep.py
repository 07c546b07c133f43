"""The sweep on this machine: hosts side by side, the points shared out among them, one line for each failure, the figures."""

import json
import queue
import random
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TextIO

from tests.crash import points
from tests.crash.bed import BACKENDS, Bed, DriverFailed, booted
from tests.crash.points import Point

_KNOCK_EVERY = 10
_SERVICE_EVERY = 40  # so many points, one is started again by systemd
_PROGRESS_S = 5.0
_SLOWEST = 40


@dataclass
class Outcome:
    """What became of one point."""

    point: str
    hit: str
    stood: str  # what stood after the restart before T: open, nothing; empty where there was none
    problems: list[str]
    seconds: float
    service: bool = False  # started again by systemd
    log: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether anything was not as it must be."""
        return bool(self.problems)


class Sweep:
    """One run. ``say`` is where progress and failures go."""

    def __init__(self, hosts: int, *, every: bool = False, say: TextIO = sys.stderr) -> None:
        self._hosts = hosts
        self._every = every
        self._say = say
        self._lock = threading.Lock()
        self._todo: queue.SimpleQueue[Point] = queue.SimpleQueue()
        self._total = 0
        self._chosen = False
        self._begun = self._told = time.monotonic()
        self.outcomes: list[Outcome] = []

    def run(self, chosen: Sequence[Point] = (), *, sample: int = 0) -> list[Outcome]:
        """All points, those ``chosen``, or a ``sample`` spread over all of them. Raises what keeps it from running at all."""
        with ExitStack() as stack:
            beds = [stack.enter_context(booted()) for _ in range(self._hosts)]
            self._chosen = bool(chosen)
            found = list(chosen) or self._count(beds)
            if sample and len(found) > sample:
                found = [found[number * len(found) // sample] for number in range(sample)]
            random.Random(1).shuffle(found)  # what is wrong shows early, and the time left is told rightly
            for point in found:
                self._todo.put(point)
            self._total, self._begun = len(found), time.monotonic()
            _side_by_side([(self._work, bed) for bed in beds])
        return self.outcomes

    def _count(self, beds: Sequence[Bed]) -> list[Point]:
        """Each host counts for some backends: the numbers belong to one kind of host, so any may run them."""
        found: list[list[Point]] = [[] for _ in beds]

        def work(number: int) -> None:
            found[number] = list(points.count(beds[number].ask, BACKENDS[number :: len(beds)], every=self._every))

        self._print("counting the points ...")
        _side_by_side([(work, number) for number in range(len(beds))])
        return [point for part in found for point in part]

    def _work(self, bed: Bed) -> None:
        while True:
            try:
                point = self._todo.get_nowait()
            except queue.Empty:
                return
            number = len(self.outcomes)
            service = not self._chosen and number % _SERVICE_EVERY == _SERVICE_EVERY - 1
            outcome = _run(bed, point, knock=number % _KNOCK_EVERY == 0, service=service)
            if outcome.failed and outcome.problems[0].startswith("Stuck"):
                outcome = _run(bed, point, knock=False)  # a machine too busy says nothing about the point
            with self._lock:
                self.outcomes.append(outcome)
                self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        if outcome.failed:
            self._print(f"FAILED {outcome.point} (before: {outcome.hit})")
            for problem in outcome.problems:
                self._print(f"    {problem}")
            self._print(f"    again: make crash ARGS='--point {outcome.point}'")
        now, done = time.monotonic(), len(self.outcomes)
        if now - self._told >= _PROGRESS_S or done == self._total:
            self._told = now
            left = (now - self._begun) / done * (self._total - done)
            failures = sum(found.failed for found in self.outcomes)
            self._print(f"{done} of {self._total} points, {failures} failures, about {left / 60:.0f} min {left % 60:.0f} s left")

    def _print(self, line: str) -> None:
        print(line, file=self._say, flush=True)


def report(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """The figures: one object for ``--json``."""
    return {
        "points": len(outcomes),
        "failures": sum(outcome.failed for outcome in outcomes),
        "operations": {name: sum(outcome.point.startswith(name) for outcome in outcomes) for name in points.OPERATIONS},
        "backends": {name: sum(f":{name}:" in outcome.point for outcome in outcomes) for name in BACKENDS},
        "by_systemd": sum(outcome.service for outcome in outcomes),
        "not_reached": sum(not outcome.hit for outcome in outcomes),
        "stood": {name: sum(outcome.stood == name for outcome in outcomes) for name in ("open", "nothing")},
        "seconds": round(seconds, 1),
        "slowest": {found.point: found.seconds for found in sorted(outcomes, key=lambda found: -found.seconds)[:_SLOWEST]},
        "failed": [vars(outcome) for outcome in outcomes if outcome.failed],
    }


def _run(bed: Bed, point: Point, *, knock: bool, service: bool = False) -> Outcome:
    try:
        found = bed.ask(point.order(knock=knock, service=service))
    except DriverFailed as failure:
        return Outcome(str(point), "", "", [str(failure)], 0.0)
    hit = found["hit"] or ("a journal boundary" if point.where.startswith("c") else "")
    return Outcome(str(point), hit, found["stood"], found["problems"], found["seconds"], service, found.get("log", []))


def _side_by_side(work: Sequence[tuple[Any, Any]]) -> None:
    """Each ``(function, argument)`` in a thread of its own; the first that failed raises."""
    errors: list[BaseException] = []

    def guarded(function: Any, argument: Any) -> None:
        try:
            function(argument)
        except BaseException as error:  # raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=pair) for pair in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def to_json(found: dict[str, Any]) -> str:
    """As ``--json`` prints it."""
    return json.dumps(found, indent=2)
