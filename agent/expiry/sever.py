"""Ending every process of the tenants whose time is up, all of them together, until none is left.

The order is the one that was measured to win against fork bombs: the whole user slice at once, then everything the uid may
signal, then a walk of /proc for what neither can see, its cgroups frozen while they are cleared so nothing runs ahead of it.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.host.cgroups import Cgroups
from agent.host.processes import Process, ProcessTable

_KILLED_LISTED = 64
PATIENCE_S = 5.0
_PAUSES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


@dataclass(slots=True)
class Severed:
    """How it went for one tenant. ``killed`` names at most 64 processes; ``killed_count`` counts those a walk saw and that died."""

    uid: int
    killed: list[str] = field(default_factory=list)
    killed_count: int = 0
    survivors: list[str] = field(default_factory=list)
    empty_wall_ns: int = 0
    errors: list[str] = field(default_factory=list)

    def failed(self, error: Exception) -> None:
        """Note what went wrong, once."""
        self.note(f"{type(error).__name__}: {error}")

    def note(self, message: str) -> None:
        """Note an error, once."""
        if message not in self.errors:
            self.errors.append(message)


def sever(
    tenants: dict[int, str],
    table: ProcessTable,
    cgroups: Cgroups,
    wall_ns: Callable[[], int],
    *,
    patience_s: float = PATIENCE_S,
) -> dict[int, Severed]:
    """Kill until nothing of any tenant (uid → login) lives; returns what was seen of each. Never raises.

    Whoever still lives after ``patience_s`` stands in ``survivors``: the caller keeps the grant open as not ended and tries again.
    A walk that fails proves nothing: until one succeeds everybody counts as alive.
    """
    attempt = _Attempt(tenants, table, cgroups, {uid: Severed(uid) for uid in tenants})
    attempt.look()
    give_up = time.monotonic() + patience_s
    for number in itertools.count():
        busy = attempt.strike()
        now = wall_ns()
        for uid, result in attempt.results.items():
            result.empty_wall_ns = 0 if uid in busy else result.empty_wall_ns or now
        late = time.monotonic() > give_up
        if not busy or late:
            attempt.conclude(busy)
            break
        time.sleep(_PAUSES_S[min(number, len(_PAUSES_S) - 1)])
    return attempt.results


@dataclass(slots=True)
class _Attempt:
    """One call of :func:`sever`: whom it is about, and what it has seen."""

    tenants: dict[int, str]
    table: ProcessTable
    cgroups: Cgroups
    results: dict[int, Severed]
    seen: dict[tuple[int, int], Process] = field(default_factory=dict)
    at_first: frozenset[int] = frozenset()
    left: list[Process] = field(default_factory=list)

    def look(self) -> None:
        """Who is there before the first kill."""
        try:
            self._note(self.table.of(self.tenants))
        except Exception as error:
            self._failed(error)
        self.at_first = frozenset(pid for _, pid in self.seen)

    def strike(self) -> set[int]:
        """Kill everything once; returns the uids of which something may still live."""
        self._kill_groups()
        try:
            self.left = self.table.of(self.tenants)
            self._note(self.left)
            self._kill_strays()
            busy = {process.tenant_uid for process in self.left if self._counts(process)}
        except Exception as error:
            self._failed(error)
            self.left = []
            return set(self.tenants)
        return busy | {uid for uid in self.tenants if self.cgroups.populated(self.cgroups.user_slice(uid))}

    def conclude(self, busy: set[int]) -> None:
        """Name who lives, and who died."""
        alive = {(process.tenant_uid, process.pid) for process in self.left if process.tenant_uid in busy}
        for uid in busy:
            result = self.results[uid]
            named = [f"{process.name}[{process.pid}]" for process in self.left if process.tenant_uid == uid]
            unnamed = "; ".join(result.errors) or f"something in {self.cgroups.user_slice(uid)}"
            result.survivors = named[:_KILLED_LISTED] or [unnamed]
        for key, process in self.seen.items():
            if key not in alive:
                result = self.results[process.tenant_uid]
                result.killed_count += 1
                if len(result.killed) < _KILLED_LISTED:
                    result.killed.append(f"{process.name}[{process.pid}] uid={process.uid} by={process.mark}")

    def _counts(self, process: Process) -> bool:
        """Whether it keeps the end from being reached.

        sshd names its process after the login before anyone has authenticated. The doors are shut by now, so a later one never
        will: it is killed as well, but whoever goes on knocking from the network does not keep the grant from ending.
        """
        return process.mark != "sshd" or process.pid in self.at_first

    def _kill_groups(self) -> None:
        for uid in self.tenants:
            self.cgroups.kill(self.cgroups.user_slice(uid))
        try:
            for uid, message in self.table.kill_all_of(self.tenants).items():
                self.results[uid].note(message)
        except Exception as error:
            self._failed(error)

    def _kill_strays(self) -> None:
        """What the two atomic kills did not reach, cgroup by cgroup: freeze, look again, kill, thaw."""
        by_group: dict[str, list[Process]] = defaultdict(list)
        for process in self.left:
            by_group[process.cgroup].append(process)
        for group, members in by_group.items():
            with self.cgroups.frozen(group) as frozen:
                hits = [process for process in self.table.of(self.tenants) if process.cgroup == group] if frozen else members
                for process in hits:
                    self._kill(process)

    def _kill(self, process: Process) -> None:
        try:
            self.table.kill(process.pid, self.tenants)
        except Exception as error:
            self.results[process.tenant_uid].failed(error)

    def _note(self, processes: list[Process]) -> None:
        for process in processes:
            self.seen.setdefault((process.tenant_uid, process.pid), process)

    def _failed(self, error: Exception) -> None:
        for result in self.results.values():
            result.failed(error)
