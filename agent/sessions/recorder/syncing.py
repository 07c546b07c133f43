"""The one thread: fdatasync(2), which waits for the disk."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterable

from agent.sessions.recorder.loop import IN, Loop
from agent.sessions.recorder.tape import Tape

SYNC_S = 1.0


class Syncing:
    """Syncs tapes elsewhere and tells them in the loop how it went."""

    def __init__(self, loop: Loop) -> None:
        self._todo: queue.SimpleQueue[Tape | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Tape, str]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._since = 0.0
        self._thread = threading.Thread(target=self._work, name="sync", daemon=True)
        loop.watch(self._bell, IN, self._answer)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def sync(self, tapes: Iterable[Tape]) -> None:
        """Sync those that have something new and are not at it."""
        for tape in tapes:
            if tape.dirty and not tape.syncing and tape.fd >= 0:
                tape.dirty, tape.syncing = False, True
                self._todo.put(tape)

    def stuck_s(self) -> float:
        """For how long the disk has not answered, in seconds."""
        since = self._since
        return time.monotonic() - since if since else 0.0

    def stop(self) -> None:
        """After all that is to be synced is; bounded by the disk alone."""
        if self._thread.is_alive():
            self._todo.put(None)
            self._thread.join(5.0)
        self._answer(0)

    def _work(self) -> None:
        while (tape := self._todo.get()) is not None:
            self._since = time.monotonic()
            try:
                os.fdatasync(tape.fd)
                why = ""
            except OSError as error:
                why = error.strerror or str(error)
            self._since = 0.0
            self._done.put((tape, why))
            os.eventfd_write(self._bell, 1)

    def _answer(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while not self._done.empty():
            tape, why = self._done.get()
            tape.synced(why)
