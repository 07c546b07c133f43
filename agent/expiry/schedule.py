"""What is to happen when, on either clock: one heap for each, armed into one timer. Pure; the daemon owns the timer."""

import heapq
from dataclasses import dataclass, field
from enum import StrEnum


class Act(StrEnum):
    """What an alarm asks for."""

    OPEN = "open"
    WARN = "warn"
    SHUT = "shut"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True, order=True)
class Alarm:
    """One thing to do for one grant (its journal id). ``note`` tells warnings and sweeps apart."""

    act: Act
    grant_id: int
    note: int = 0


@dataclass(slots=True)
class Schedule:
    """Two heaps; an alarm fires when it is due on the clock it was set for, and once only though it stands on both."""

    _wall: list[tuple[int, Alarm]] = field(default_factory=list)
    _boot: list[tuple[int, Alarm]] = field(default_factory=list)
    _set: dict[int, set[Alarm]] = field(default_factory=dict)  # by grant, so that forgetting one is cheap

    def add(self, alarm: Alarm, *, wall_ns: int | None = None, boot_ns: int | None = None) -> None:
        """Set an alarm for a wall time, a boot time, or the first of both."""
        self._set.setdefault(alarm.grant_id, set()).add(alarm)
        if wall_ns is not None:
            heapq.heappush(self._wall, (wall_ns, alarm))
        if boot_ns is not None:
            heapq.heappush(self._boot, (boot_ns, alarm))

    def forget(self, grant_id: int) -> None:
        """Drop every alarm of a grant (it ended another way)."""
        self._set.pop(grant_id, None)

    def due(self, wall_ns: int, boot_ns: int) -> list[Alarm]:
        """Take out what is due by now, in the order of time; each alarm once."""
        found: list[Alarm] = []
        for heap, now in ((self._wall, wall_ns), (self._boot, boot_ns)):
            while heap and (not self._is_set(heap[0][1]) or heap[0][0] <= now):
                _, alarm = heapq.heappop(heap)
                if self._is_set(alarm):
                    self._unset(alarm)
                    found.append(alarm)
        return found

    def next(self) -> tuple[int | None, int | None]:
        """The first wall time and the first boot time to wake at."""
        for heap in (self._wall, self._boot):
            while heap and not self._is_set(heap[0][1]):
                heapq.heappop(heap)
        return (self._wall[0][0] if self._wall else None, self._boot[0][0] if self._boot else None)

    def __len__(self) -> int:
        """Alarms still set."""
        return sum(len(alarms) for alarms in self._set.values())

    def _is_set(self, alarm: Alarm) -> bool:
        return alarm in self._set.get(alarm.grant_id, ())

    def _unset(self, alarm: Alarm) -> None:
        alarms = self._set[alarm.grant_id]
        alarms.discard(alarm)
        if not alarms:
            del self._set[alarm.grant_id]
