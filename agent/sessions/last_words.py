"""Letting sshd send what terminals were told, before it is killed and takes the words with it.

sshd reads a terminal, encrypts what it has read and writes it to its socket before it sleeps anew (serverloop.c of OpenSSH). So
one that has slept once more since has sent it: proc_pid_status(5) counts that, as voluntary context switches. That takes a
millisecond where a processor is free for it, and however long where none is; a fixed time is too long or too short.
"""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.sessions.terminals import terminals_of

PATIENCE_S = 0.04  # the doors are shut, but whoever stops its own sshd lives as much longer
UNSURE_S = 0.015  # where it is not known which sshd to wait for, or none was found
_FINDING_S = 0.005
_LOOK_S = 0.0005
_SSHD = frozenset({b"sshd", b"sshd-session"})
_PTS, _PROC = Path("/dev/pts"), Path("/proc")
# Not its title: that is read from memory of its own, and a tenant can let such a read wait for good (mmap of a FUSE file).
_STATUS = re.compile(
    rb"^Name:\t(?P<name>.*?)$.*^State:\t(?P<state>\w).*^Uid:\t(?P<uid>\d+).*^voluntary_ctxt_switches:\t(?P<sleeps>\d+)$",
    re.DOTALL | re.MULTILINE,
)


class _Status(NamedTuple):
    name: bytes
    state: bytes
    uid: int
    sleeps: int  # how often it has gone to sleep by itself


class LastWords:
    """Made before the terminals of these users are told, so that it knows how often each sshd has slept until then.

    ``pids_of``: a user's processes. Which sshd has which terminal is not known (in a recorded session what is told is the
    recorder's terminal, not sshd's), so they are counted: of each user as many are to sleep again as it has terminals. Where
    there are more sshds than terminals, or none that was found (looking for them is bounded), a fixed time is waited at least.
    """

    def __init__(
        self, uids: Collection[int], pids_of: Callable[[int], Sequence[int]], *, pts: Path = _PTS, proc: Path = _PROC
    ) -> None:
        self._proc = proc
        self._owed: dict[int, int] = {}  # uid → how many of its sshds have yet to send
        self._sshds: dict[int, dict[int, int]] = {}  # uid → pid → the count of sleeps at which it has sent
        self._unsure = False
        give_up = time.monotonic() + _FINDING_S
        for uid, terminals in _terminals(uids, pts).items():
            self._sshds[uid] = sshds = {}
            for pid in pids_of(uid):
                if time.monotonic() > give_up:
                    break
                status = self._status(pid)
                if status and status.name in _SSHD and status.uid == uid:
                    # One that is awake now goes to sleep over something else first.
                    sshds[pid] = status.sleeps + (1 if status.state == b"S" else 2)
            self._owed[uid] = min(terminals, len(sshds))
            self._unsure = self._unsure or not 0 < len(sshds) <= terminals

    def wait(self) -> None:
        """Until so many have sent what they were given, at most ``PATIENCE_S``."""
        began = time.monotonic()
        while True:
            for uid, sshds in self._sshds.items():
                for pid in [pid for pid, count in sshds.items() if self._owed[uid] > 0 and self._has_slept(pid, count)]:
                    del sshds[pid]
                    self._owed[uid] -= 1
            owing = any(owed > 0 for owed in self._owed.values())
            if time.monotonic() - began >= (PATIENCE_S if owing else UNSURE_S if self._unsure else 0):
                return
            time.sleep(_LOOK_S)

    def _has_slept(self, pid: int, count: int) -> bool:
        """Or has died: a dead one sends nothing more."""
        status = self._status(pid)
        return status is None or status.state in b"ZX" or status.sleeps >= count

    def _status(self, pid: int) -> _Status | None:
        """None when it is gone, or can't be read."""
        with contextlib.suppress(OSError):
            if found := _STATUS.search((self._proc / str(pid) / "status").read_bytes()):
                return _Status(found["name"], found["state"], int(found["uid"]), int(found["sleeps"]))
        return None


def _terminals(uids: Collection[int], pts: Path) -> Counter[int]:
    """How many each of them has."""
    found: Counter[int] = Counter()
    for path in terminals_of(uids, pts):
        with contextlib.suppress(OSError):
            found[path.lstat().st_uid] += 1
    return found
