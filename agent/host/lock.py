"""Who may open: one process at a time, and nobody while a backstop is at work. Held by flock(2), so a killed holder has let go."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from agent.errors import HostError

OPENING = "opening.lock"  # in the run folder; the daemon's as long as it opens grants
BACKSTOP = "backstop.lock"  # one backstop at a time clears away
ALIVE = "alive.lock"  # the daemon's as long as it lives: what a backstop asks first (agent.early)
_PAUSE_S = 0.05


class Lock:
    """A lock file. Never removed: a lock on an unlinked file would be nobody's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def take(self, wait_s: float = 0.0) -> bool:
        """Hold it; False when another has it for so long. Raises HostError ``write_failed``: the file can't be made."""
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise HostError("write_failed", f"{self.path} could not be made: {error.strerror}") from error
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= until:
                    return False
                time.sleep(_PAUSE_S)
            else:
                return True

    def release(self) -> None:
        """Let go of it; not held is done."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def held(path: Path, wait_s: float) -> Iterator[bool]:
    """Whether it is held inside; a file that can't be made counts as not held."""
    lock = Lock(path)
    try:
        try:
            taken = lock.take(wait_s)
        except HostError:
            taken = False
        yield taken
    finally:
        lock.release()
