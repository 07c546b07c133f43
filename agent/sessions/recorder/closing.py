"""Closing what others opened: close(2) flushes, and a file system of the tenant's own (FUSE) may never answer that."""

import contextlib
import os
import queue
import threading
from collections.abc import Iterable

_WORKERS_MAX = 16  # so many may hang for ever; beyond that descriptors stay open, which their owner's caps bound

_todo: queue.SimpleQueue[int] = queue.SimpleQueue()
_idle = threading.Semaphore(0)
_count = 0


def close_elsewhere(fds: Iterable[int]) -> None:
    """Close them in a thread that nobody waits for."""
    global _count  # noqa: PLW0603  (one pool for the process, made when first needed)
    for fd in fds:
        _todo.put(fd)
        if not _idle.acquire(blocking=False) and _count < _WORKERS_MAX:
            _count += 1
            threading.Thread(target=_work, name="close", daemon=True).start()


def _work() -> None:
    while True:
        fd = _todo.get()
        with contextlib.suppress(OSError):
            os.close(fd)
        _idle.release()
