"""One epoll(7) loop with timers: callbacks only, no coroutine, nothing that waits anywhere else."""

import heapq
import itertools
import logging
import select
import time
from collections.abc import Callable

log = logging.getLogger("tidegate")

IN = select.EPOLLIN
OUT = select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR  # always reported, asked for or not
NS = 1_000_000_000
_LONGEST_S = 3600.0
_BATCH = 256


class Timer:
    """One call to come; :meth:`cancel` makes it none."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Forget it; twice is the same as once."""
        self.call = None


class Loop:
    """Descriptors and deadlines of the whole process. All times are of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._calls: dict[int, Callable[[int], object]] = {}
        self._masks: dict[int, int] = {}
        self._gone: set[int] = set()  # forgotten since the last poll: their number may be another's already
        self._timers: list[tuple[int, int, Timer]] = []
        self._order = itertools.count()
        self._running = False

    def watch(self, fd: int, mask: int, call: Callable[[int], object]) -> None:
        """Call ``call(events)`` when ``fd`` is ready for ``mask``; again to change either. Raises OSError where epoll can't."""
        known = self._masks.get(fd)
        if known is None:
            self._epoll.register(fd, mask)
        elif known != mask:
            self._epoll.modify(fd, mask)
        self._masks[fd] = mask
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """No longer watch ``fd``: before it is closed, since a copy of it elsewhere would keep it in the set."""
        if self._masks.pop(fd, None) is None:
            return
        del self._calls[fd]
        self._gone.add(fd)
        self._epoll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call once, not before ``seconds`` from now."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic_ns() + int(seconds * NS), next(self._order), timer))
        return timer

    def run(self) -> None:
        """Until :meth:`stop`."""
        self._running = True
        while self._running:
            self.turn()

    def stop(self) -> None:
        """Let :meth:`run` return after this turn."""
        self._running = False

    def turn(self, longest_s: float = _LONGEST_S) -> None:
        """Wait once, then call what is ready and what is due."""
        gone = self._gone
        gone.clear()
        for fd, mask in self._epoll.poll(self._wait_s(longest_s), _BATCH):
            call = self._calls.get(fd)
            if call is not None and fd not in gone:
                try:
                    call(mask)
                except Exception:
                    log.exception("a callback of the recorder failed")
                    self.forget(fd)  # it would be called again at once, for ever
        self._due()

    def _wait_s(self, longest_s: float) -> float:
        timers = self._timers
        while timers and timers[0][2].call is None:
            heapq.heappop(timers)
        if not timers:
            return longest_s
        left = (timers[0][0] - time.monotonic_ns()) / NS
        return longest_s if left > longest_s else left if left > 0 else 0.0

    def _due(self) -> None:
        timers = self._timers
        now = time.monotonic_ns()
        while timers and timers[0][0] <= now:
            call = heapq.heappop(timers)[2].call
            if call is not None:
                try:
                    call()
                except Exception:
                    log.exception("a timer of the recorder failed")
