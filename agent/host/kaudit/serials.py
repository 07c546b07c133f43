"""Which of audit's events never came, by the gaps in their serial numbers. Pure.

The kernel numbers every event of the host, one after the other, and events of several processors may come a little out of order.
So a number that is left out counts as lost only when it has not come for two seconds.
"""

_WAIT_NS = 2_000_000_000
_HOLES_MAX = 256


class Serials:
    """``now_ns`` is any monotonic clock."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._holes: list[tuple[int, int, int]] = []  # first, last, since when

    def see(self, serial: int, now_ns: int) -> None:
        """An event came, or another record of it."""
        if serial == self._last:
            return
        if self._last is None:
            self._last = serial
        elif serial > self._last:
            if serial > self._last + 1:
                self._holes.append((self._last + 1, serial - 1, now_ns))
            self._last = serial
        elif self._holes:
            self._fill(serial)

    def lost(self, now_ns: int, *, wait: bool = True) -> list[tuple[int, int]]:
        """The ranges (first, last) that count as lost by now, each told once; without ``wait`` all that are missing."""
        found: list[tuple[int, int]] = []
        while self._holes and (not wait or now_ns - self._holes[0][2] >= _WAIT_NS or len(self._holes) > _HOLES_MAX):
            first, last, _ = self._holes.pop(0)
            found.append((first, last))
        return found

    def _fill(self, serial: int) -> None:
        for index, (first, last, since) in enumerate(self._holes):
            if first <= serial <= last:
                rest = [(first, serial - 1, since), (serial + 1, last, since)]
                self._holes[index : index + 1] = [hole for hole in rest if hole[0] <= hole[1]]
                return

    @property
    def waiting(self) -> bool:
        """Whether any is missing and not told."""
        return bool(self._holes)
