"""Taking the set-user-id and set-group-id bits off what a tenant owns, so that nobody else can become the tenant by running it."""

import contextlib
import os
import stat
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from agent.host.trees import names_in, opened

SET_ID = stat.S_ISUID | stat.S_ISGID
SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108  (to disarm, not to write)
_DEPTH = 16


def disarm(folders: Sequence[Path], uids: Collection[int], *, entries: int = 100_000, deadline_s: float = 0.5) -> int:
    """Walk these folders, bounded, following no link; returns how many files were disarmed. Never raises OSError.

    What the walk has no time for is disarmed when somebody is seen running it (:func:`disarm_program`).
    """
    walk = _Walk(uids, entries, time.monotonic() + deadline_s)
    for folder in folders:
        with contextlib.suppress(OSError), opened(str(folder)) as fd:
            walk.go(fd, _DEPTH)
    return walk.disarmed


def disarm_program(pid: int, uids: Collection[int], proc: Path = Path("/proc")) -> bool:
    """The file a process was started from, wherever it is (proc(5), ``exe``), if it is one of these uids'."""
    with contextlib.suppress(OSError):
        fd = os.open(proc / str(pid) / "exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _disarm(fd, uids)
        finally:
            os.close(fd)
    return False


def _disarm(fd: int, uids: Collection[int]) -> bool:
    found = os.fstat(fd)
    if found.st_uid not in uids or not stat.S_ISREG(found.st_mode) or not found.st_mode & SET_ID:
        return False
    os.fchmod(fd, stat.S_IMODE(found.st_mode) & ~SET_ID)
    return True


class _Walk:
    def __init__(self, uids: Collection[int], entries: int, deadline: float) -> None:
        self._uids = uids
        self._entries = entries
        self._deadline = deadline
        self.disarmed = 0

    def go(self, folder: int, depth: int) -> None:
        """One open folder and what is below it."""
        for name in names_in(folder):
            self._entries -= 1
            if self._entries < 0 or time.monotonic() > self._deadline:
                return
            with contextlib.suppress(OSError):
                self._entry(folder, name, depth)

    def _entry(self, folder: int, name: str, depth: int) -> None:
        found = os.lstat(name, dir_fd=folder)
        if stat.S_ISDIR(found.st_mode) and depth:
            with opened(name, folder) as fd:
                self.go(fd, depth - 1)
        elif stat.S_ISREG(found.st_mode) and found.st_uid in self._uids and found.st_mode & SET_ID:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                self.disarmed += _disarm(fd, self._uids)
            finally:
                os.close(fd)
