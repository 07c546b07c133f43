"""When somebody's last process died, seen from outside the host by the kernel's own word: no walk of /proc disturbs it.

A user slice is looked at through its cgroup.events, so that it doesn't matter what is forked meanwhile. Single processes are
watched by pidfd.
"""

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frame.row import Absent
from tests.hosts.cgroup import Cgroup
from tests.hosts.machine import Host

_LOOK_S = 0.0003
_EARLY_S = 0.02
_IN_DELETE = 0x200
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name (inotify(7))


class SliceWatch:
    """From just before ``due_s`` on: when nothing of that uid's slice lived any more (ns, wall clock), and that it stays so."""

    def __init__(self, host: Host, uid: int) -> None:
        self._folder = Cgroup.named(host.id).folder / f"payload/user.slice/user-{uid}.slice"

    @property
    def populated(self) -> bool:
        """Whether anything lives in it; a slice that is gone holds nothing."""
        try:
            return b"populated 1" in (self._folder / "cgroup.events").read_bytes()
        except OSError:
            return False

    def count(self) -> int:
        """How many processes."""
        total = 0
        for path in self._folder.rglob("cgroup.procs"):
            try:
                total += len(path.read_text().split())
            except OSError:
                continue
        return total

    def dead_ns(self, due_s: float, patience_s: float) -> int | None:
        """Wait for it; None when it has not come so long after ``due_s``."""
        time.sleep(max(0.0, due_s - _EARLY_S - time.time()))
        while self.populated:
            if time.time() > due_s + patience_s:
                return None
            time.sleep(_LOOK_S)
        return time.time_ns()

    def kill(self) -> None:
        """End what is left, so that the next turn is undisturbed."""
        try:
            (self._folder / "cgroup.kill").write_text("1")
        except OSError:
            return


class Deaths:
    """Many processes at once: when each died (ns, wall clock), by a thread that sleeps until the kernel says so."""

    def __init__(self, pids: Sequence[int]) -> None:
        """Raises Absent: there is none."""
        if not pids:
            raise Absent("no process to watch")
        self._poll = select.epoll()
        self._left: dict[int, int] = {}
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            self._left[descriptor] = pid
            self._poll.register(descriptor, select.EPOLLIN)
        self.died_ns: dict[int, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self._left:
            for descriptor, _ in self._poll.poll():
                self.died_ns[self._left.pop(descriptor)] = time.time_ns()
                self._poll.unregister(descriptor)
                os.close(descriptor)

    @property
    def left(self) -> int:
        """How many live."""
        return len(self._left)

    def wait(self, until_s: float) -> bool:
        """Whether all had died by then (seconds since the epoch)."""
        self._thread.join(max(0.0, until_s - time.time()))
        return not self._thread.is_alive()


class Unlinked:
    """Files, and when each was unlinked (ns, wall clock), by inotify: nothing is looked at meanwhile."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises OSError: a folder can't be watched."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC)
        self._left: set[Path] = set(paths)
        self.gone_ns: dict[Path, int] = {}
        folders = {path.parent for path in paths}
        self._folders = {self._watched(folder): folder for folder in folders}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watched(self, folder: Path) -> int:
        number: int = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_DELETE)
        if number < 0:
            raise OSError(ctypes.get_errno(), f"{folder} can't be watched")
        return number

    def _watch(self) -> None:
        while self._left:
            data = os.read(self._fd, 65536)
            now, at = time.time_ns(), 0
            while at < len(data):
                number, _, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                path = self._folders.get(number, Path()) / os.fsdecode(name)
                if path in self._left:
                    self._left.discard(path)
                    self.gone_ns[path] = now

    @property
    def left(self) -> int:
        """How many are there."""
        return len(self._left)

    def wait(self, until_s: float) -> bool:
        """Whether all were gone by then (seconds since the epoch)."""
        self._thread.join(max(0.0, until_s - time.time()))
        return not self._thread.is_alive()
