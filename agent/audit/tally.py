"""What has happened since this process began, counted as it is told: the totals and times of `tidegate metrics`.

Counting is all that metrics cost while nobody asks. Nothing is kept over a restart: whoever reads counters knows a reset when
it sees one, and what has happened stands in the journal and the trail.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agent.audit.event import AuditEvent, EventKind
from agent.host.clock import Clock
from agent.model.measures import Histogram, Sample

OPENING_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LATENESS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True, slots=True)
class Totals:
    """``kinds``: events by kind; ``refused`` by code; ``ended`` by cause; ``numbers``: written, lost, dropped, recordings(_cut)."""

    kinds: Mapping[str, int]
    refused: Mapping[str, int]
    ended: Mapping[str, int]
    numbers: Mapping[str, int]
    opening: tuple[Sample, ...]
    lateness: tuple[Sample, ...]


class Tally:
    """Counts of one process. Safe to call from any thread; nothing here raises.

    ``since_wall_ns`` and ``since_boot_ns`` are one moment on both clocks: when counting began.
    """

    def __init__(self, clock: Clock) -> None:
        self.since_wall_ns, self.since_boot_ns = clock.wall_ns(), clock.boot_ns()
        self._lock = threading.Lock()
        self._kinds: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()
        self._opening = Histogram(OPENING_S)
        self._lateness = Histogram(LATENESS_S)

    def note(self, event: AuditEvent) -> None:
        """One event that was told."""
        detail = event.detail
        with self._lock:
            self._kinds[event.kind.value] += 1
            if event.kind is EventKind.GRANT_REFUSED:
                self._refused[event.code] += 1
            elif event.kind is EventKind.GRANT_OPENED:
                _observe(self._opening, detail.get("opening_ms"))
            elif event.kind is EventKind.GRANT_ENDED:
                self._ended[event.code] += 1
                _observe(self._lateness, detail.get("late_ms"))
                self._numbers["recordings"] += _whole(detail.get("recordings"))
                self._numbers["recordings_cut"] += _whole(detail.get("recordings_cut"))
            elif event.kind is EventKind.AUDIT_DROPPED:
                self._numbers["dropped"] += _whole(detail.get("count"))

    def written(self, count: int) -> None:
        """So many events are on the disk."""
        with self._lock:
            self._numbers["written"] += count

    def lost(self, count: int) -> None:
        """So many events never reached it."""
        with self._lock:
            self._numbers["lost"] += count

    def totals(self) -> Totals:
        """All counts, as of one moment."""
        with self._lock:
            return Totals(
                dict(self._kinds),
                dict(self._refused),
                dict(self._ended),
                dict(self._numbers),
                self._opening.samples(),
                self._lateness.samples(),
            )


def _observe(histogram: Histogram, found: object) -> None:
    """A time in milliseconds; a grant that never stood has none."""
    if isinstance(found, int) and not isinstance(found, bool):
        histogram.observe(found / 1000)


def _whole(found: object) -> int:
    return found if isinstance(found, int) and not isinstance(found, bool) else 0
