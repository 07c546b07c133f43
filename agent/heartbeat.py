"""tidegated's word to systemd's watchdog: that its loop goes round (sd_watchdog_enabled(3))."""

import asyncio
import os
import time

from agent.host.service import tell_systemd

_PATIENCE_S = 0.05  # the loop has deadlines to keep; the next word follows
_WELL_BEFORE = 6  # parts of a period: no word sooner than one of them after the last


class Heartbeat:
    """One word in each half of the period. Where the loop is awake for something else, it is said then, and wakes nobody later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, period_us: str = os.environ.get("WATCHDOG_USEC", "")) -> None:
        """``period_us``: systemd's, in microseconds; empty, where nobody watches."""
        self._loop = loop
        self._period_s = int(period_us) / 1e6 if period_us.isdigit() else 0.0
        self._next: asyncio.TimerHandle | None = None
        self._said_s = 0.0

    def begin(self) -> None:
        """From now on."""
        self._beat()

    def awake(self) -> None:
        """The loop is awake by itself."""
        if self._next is not None and time.monotonic() - self._said_s >= self._period_s / _WELL_BEFORE:
            self._beat()

    def _beat(self) -> None:
        if self._next is not None:
            self._next.cancel()
        if self._period_s:
            self._said_s = time.monotonic()
            self._next = self._loop.call_later(self._period_s / 2, self._beat)  # first: whatever becomes of this word
            tell_systemd("WATCHDOG=1", _PATIENCE_S)
