"""So much in a minute and no more: a bucket that fills steadily. What is too much waits; nothing is thrown away."""

import threading
import time
from collections.abc import Callable

_MINUTE_S = 60.0


class Pace:
    """``per_minute`` units, of which a minute's worth may come at once. Used by one thread."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._full = self._level = float(per_minute)
        self._rate = per_minute / _MINUTE_S
        self._clock = clock
        self._at = clock()

    def owed_s(self, units: int) -> float:
        """Take so many; returns for how long nothing more may be taken, in seconds."""
        now = self._clock()
        self._level = min(self._full, self._level + (now - self._at) * self._rate) - units
        self._at = now
        return max(0.0, -self._level / self._rate)

    def take(self, units: int, stop: threading.Event) -> float:
        """Take so many, and wait until that is made up for, or ``stop`` is set; returns how long that was, in seconds."""
        owed = self.owed_s(units)
        if owed:
            stop.wait(owed)
        return owed
