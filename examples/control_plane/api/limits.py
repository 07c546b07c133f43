"""Tries, and bytes, in a window of time, for each key; bounded in memory."""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from examples.control_plane.api.problems import Problem

_KEYS_MAX = 10_000


class Limiter:
    """At most ``count`` takes of one key in any ``per_s`` seconds (fixed windows from the first take)."""

    def __init__(self, count: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._per_s, self._clock = count, per_s, clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # key → begin of its window, takes in it

    def take(self, key: str) -> bool:
        """Whether one more is allowed now; counts it. At 10,000 keys the oldest is forgotten."""
        now = self._clock()
        with self._lock:
            begin, count = self._seen.get(key, (now, 0))
            if now - begin >= self._per_s:
                begin, count = now, 0
                self._seen.pop(key, None)
            if count >= self._count:
                return False
            self._seen[key] = (begin, count + 1)
            while len(self._seen) > _KEYS_MAX:
                self._seen.popitem(last=False)
            return True


class Budget:
    """At most ``most`` (bytes) of one key in any window of ``per_s`` seconds. Keys are known hosts, so few."""

    def __init__(self, most: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._per_s, self._clock = most, per_s, clock
        self._used: dict[str, tuple[float, int]] = {}  # key → begin of its window, used in it

    def take(self, key: str, amount: int) -> bool:
        """Whether that much more is allowed now; counts it if so."""
        now = self._clock()
        begin, used = self._used.get(key, (now, 0))
        if now - begin >= self._per_s:
            begin, used = now, 0
        if used + amount > self._most:
            return False
        self._used[key] = (begin, used + amount)
        return True


class Turns:
    """So many at the same time, and so many who wait for that: what strangers cause must never take every thread."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._turns, self._here, self._most = asyncio.Semaphore(at_once), 0, at_once + waiting

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises Problem ``busy`` when the line is full."""
        if self._here >= self._most:
            raise Problem("busy", "too many come at the same time: try again")
        self._here += 1
        try:
            async with self._turns:
                yield
        finally:
            self._here -= 1
