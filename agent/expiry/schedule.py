"""What is to happen when, on either clock: one heap for each, armed into one timer. Pure; the daemon owns the timer."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

_STALE_KEPT = 256


class Act(StrEnum):
    """What an alarm asks for."""

    OPEN = "open"
    WARN = "warn"
    SHUT = "shut"
    SUSPEND = "suspend"  # its issuer's bulletin may be stale by now
    RESUME = "resume"  # look whether it is fresh again
    DRAINED = "drained"  # the time its sessions were given is over
    SWEEP = "sweep"
    MARK = "mark"  # write down how late it is
    LOOK = "look"  # look again at what former tenants left


@dataclass(frozen=True, slots=True, order=True)
class Alarm:
    """One thing to do for one grant (its journal id). ``note`` tells warnings and sweeps apart."""

    act: Act
    grant_id: int
    note: int = 0


_Entry: TypeAlias = tuple[int, int, Alarm]


@dataclass(slots=True)
class Schedule:
    """Two heaps; an alarm fires when it is due on the clock it was set for, and once only though it stands on both.

    Each setting has a number, by which what is left on the heaps of an earlier setting of the same alarm is known, and dropped.
    """

    _wall: list[_Entry] = field(default_factory=list)
    _boot: list[_Entry] = field(default_factory=list)
    _set: dict[int, dict[Alarm, int]] = field(default_factory=dict)  # by grant, so that forgetting one is cheap
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _count: int = 0  # alarms in ``_set``: asked for with each one that is added

    def add(self, alarm: Alarm, *, wall_ns: int | None = None, boot_ns: int | None = None) -> None:
        """Set an alarm for a wall time, a boot time, or the first of both; one that is set already is moved there."""
        number = next(self._numbers)
        alarms = self._set.setdefault(alarm.grant_id, {})
        self._count += alarm not in alarms
        alarms[alarm] = number
        if wall_ns is not None:
            heapq.heappush(self._wall, (wall_ns, number, alarm))
        if boot_ns is not None:
            heapq.heappush(self._boot, (boot_ns, number, alarm))
        self._compact()

    def forget(self, grant_id: int) -> None:
        """Drop every alarm of a grant (it ended another way)."""
        self._count -= len(self._set.pop(grant_id, {}))

    def due(self, wall_ns: int, boot_ns: int) -> list[Alarm]:
        """Take out what is due by now, on each clock in the order of time; each alarm once."""
        found: list[Alarm] = []
        for heap, now in ((self._wall, wall_ns), (self._boot, boot_ns)):
            while heap and (not self._is_set(heap[0]) or heap[0][0] <= now):
                entry = heapq.heappop(heap)
                if self._is_set(entry):
                    self._unset(entry[2])
                    found.append(entry[2])
        return found

    def next(self) -> tuple[int | None, int | None]:
        """The first wall time and the first boot time to wake at."""
        for heap in (self._wall, self._boot):
            while heap and not self._is_set(heap[0]):
                heapq.heappop(heap)
        return (self._wall[0][0] if self._wall else None, self._boot[0][0] if self._boot else None)

    def __len__(self) -> int:
        """Alarms still set."""
        return self._count

    def _is_set(self, entry: _Entry) -> bool:
        _, number, alarm = entry
        return self._set.get(alarm.grant_id, {}).get(alarm) == number

    def _compact(self) -> None:
        """Grants revoked long before their end would leave their alarms on the heaps till then."""
        if len(self._wall) + len(self._boot) > 2 * (2 * len(self) + _STALE_KEPT):
            for heap in (self._wall, self._boot):
                heap[:] = [entry for entry in heap if self._is_set(entry)]
                heapq.heapify(heap)

    def _unset(self, alarm: Alarm) -> None:
        alarms = self._set[alarm.grant_id]
        del alarms[alarm]
        self._count -= 1
        if not alarms:
            del self._set[alarm.grant_id]
