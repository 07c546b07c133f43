"""When somebody's last process died, seen from outside the host by the kernel's own word: no walk of /proc disturbs it.

A user slice is looked at through its cgroup.events, so that it doesn't matter what is forked meanwhile. Single processes are
watched by pidfd.
"""

import os
import select
import threading
import time
from collections.abc import Sequence

from benchmarks.frame.row import Absent
from tests.hosts.cgroup import Cgroup
from tests.hosts.machine import Host

_LOOK_S = 0.0003
_EARLY_S = 0.02


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

    def wait(self, until_s: float) -> bool:
        """Whether all had died by then (seconds since the epoch)."""
        self._thread.join(max(0.0, until_s - time.time()))
        return not self._thread.is_alive()
