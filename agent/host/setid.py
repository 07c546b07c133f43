"""Taking the set-user-id and set-group-id bits off what a tenant owns, so that nobody else can become the tenant by running it."""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from agent.host.trees import names_in, opened, printable

SET_ID = stat.S_ISUID | stat.S_ISGID
_HOSTS = Path("/proc/1/root")  # as the host sees them: the daemon's unit has a /tmp of its own
_ROOT = _HOSTS if os.path.isdir(_HOSTS / "tmp") else Path("/")  # noqa: PTH112  (is_dir() raises where /proc/1 is closed)
SHARED = (_ROOT / "tmp", _ROOT / "var/tmp", _ROOT / "dev/shm")
_DEPTH = 16


def disarm(folders: Sequence[Path], uids: Collection[int], *, entries: int = 100_000, deadline_s: float = 0.5) -> list[str]:
    """Walk these folders, bounded, following no link; returns the files of these uids that were disarmed. Never raises OSError.

    What the walk has no time for is disarmed when somebody is seen running it (:func:`disarm_program`).
    """
    return _walk(folders, lambda found: found.st_uid in uids and bool(found.st_mode & SET_ID), SET_ID, entries, deadline_s)


def disarm_group(
    folders: Sequence[Path], uid: int, gids: Collection[int], since_ns: int, *, entries: int = 100_000, deadline_s: float = 0.5
) -> list[str]:
    """Take the set-group-id bit off what the uid owns in these groups and has changed since (wall clock; ctime can't be forged).

    Who was lent a group can give it to files of their own, and have it back by running them. Else as :func:`disarm`.
    """

    def made_meanwhile(found: os.stat_result) -> bool:
        armed = found.st_mode & stat.S_ISGID and found.st_uid == uid
        return bool(armed) and found.st_gid in gids and found.st_ctime_ns >= since_ns

    return _walk(folders, made_meanwhile, stat.S_ISGID, entries, deadline_s)


def disarm_program(pid: int, uids: Collection[int], proc: Path = Path("/proc")) -> bool:
    """The file a process was started from, wherever it is (proc(5), ``exe``), if it is one of these uids'."""
    with contextlib.suppress(OSError):
        fd = os.open(proc / str(pid) / "exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _disarm(fd, lambda found: found.st_uid in uids and bool(found.st_mode & SET_ID), SET_ID)
        finally:
            os.close(fd)
    return False


def _disarm(fd: int, wanted: Callable[[os.stat_result], bool], bits: int) -> bool:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or not wanted(found):
        return False
    os.fchmod(fd, stat.S_IMODE(found.st_mode) & ~bits)
    return True


def _walk(
    folders: Sequence[Path], wanted: Callable[[os.stat_result], bool], bits: int, entries: int, deadline_s: float
) -> list[str]:
    walk = _Walk(wanted, bits, entries, time.monotonic() + deadline_s)
    for folder in folders:
        with contextlib.suppress(OSError), opened(str(folder)) as fd:
            walk.go(fd, str(folder).removeprefix(str(_HOSTS)), _DEPTH)
    return walk.disarmed


class _Walk:
    def __init__(self, wanted: Callable[[os.stat_result], bool], bits: int, entries: int, deadline: float) -> None:
        self._wanted = wanted
        self._bits = bits
        self._entries = entries
        self._deadline = deadline
        self.disarmed: list[str] = []

    def go(self, folder: int, label: str, depth: int) -> None:
        """One open folder and what is below it."""
        for name in names_in(folder):
            self._entries -= 1
            if self._entries < 0 or time.monotonic() > self._deadline:
                return
            with contextlib.suppress(OSError):
                self._entry(folder, name, f"{label}/{printable(name)}", depth)

    def _entry(self, folder: int, name: str, label: str, depth: int) -> None:
        found = os.lstat(name, dir_fd=folder)
        if stat.S_ISDIR(found.st_mode) and depth:
            with opened(name, folder) as fd:
                self.go(fd, label, depth - 1)
        elif stat.S_ISREG(found.st_mode) and self._wanted(found):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                if _disarm(fd, self._wanted, self._bits):
                    self.disarmed.append(label)
            finally:
                os.close(fd)
