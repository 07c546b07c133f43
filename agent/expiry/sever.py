"""Ending every process of the tenants whose time is up, all of them together, until none is left.

The order is the one that was measured to win against fork bombs: the whole user slice at once, then everything the uid may
signal, then a walk of /proc for what neither can see, its cgroups frozen while they are cleared so nothing runs ahead of it.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from agent.host.cgroups import Cgroups
from agent.host.processes import Process, ProcessTable

_KILLED_LISTED = 64
_PAUSES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


@dataclass(slots=True)
class Severed:
    """How it went for one tenant. ``killed`` names at most 64 processes; ``killed_count`` counts those a walk saw."""

    uid: int
    killed: list[str] = field(default_factory=list)
    killed_count: int = 0
    survivors: list[str] = field(default_factory=list)
    empty_wall_ns: int = 0
    errors: list[str] = field(default_factory=list)

    def saw(self, process: Process) -> None:
        """Note a process that is being killed."""
        self.killed_count += 1
        if len(self.killed) < _KILLED_LISTED:
            self.killed.append(f"{process.name}[{process.pid}] uid={process.uid} by={process.mark}")


def sever(
    tenants: dict[int, str],
    table: ProcessTable,
    cgroups: Cgroups,
    wall_ns: Callable[[], int],
    *,
    patience_s: float = 20.0,
) -> dict[int, Severed]:
    """Kill until nothing of any tenant (uid → login) lives; returns what was seen of each.

    The doors are shut before this is called: an sshd that is still asking somebody for a key when it is first seen here later
    can let nobody in. It is killed too, but a storm of such connections does not keep the end from being reached.

    Whoever still lives after ``patience_s`` stands in ``survivors``: the caller keeps the grant open as not ended and tries again.
    """
    results = {uid: Severed(uid) for uid in tenants}
    seen: set[tuple[int, int]] = set()
    first = table.of(tenants)
    _note(first, results, seen)
    at_start = {process.pid for process in first}
    give_up = time.monotonic() + patience_s
    for attempt in range(1_000_000):
        _kill_groups(tenants, table, cgroups, results)
        left = table.of(tenants)
        _note(left, results, seen)
        _kill_strays(left, tenants, table, cgroups)
        busy = {process.tenant_uid for process in left if process.mark != "sshd" or process.pid in at_start}
        busy |= {uid for uid in tenants if cgroups.populated(cgroups.user_slice(uid))}
        now = wall_ns()
        for uid, result in results.items():
            if uid in busy:
                result.empty_wall_ns = 0
            elif not result.empty_wall_ns:
                result.empty_wall_ns = now
        if not busy:
            break
        if time.monotonic() > give_up:
            for process in left:
                results[process.tenant_uid].survivors.append(f"{process.name}[{process.pid}]")
            break
        time.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
    return results


def _kill_groups(tenants: Collection[int], table: ProcessTable, cgroups: Cgroups, results: dict[int, Severed]) -> None:
    for uid in tenants:
        cgroups.kill(cgroups.user_slice(uid))
    for uid, message in table.kill_all_of(tenants).items():
        if message not in results[uid].errors:
            results[uid].errors.append(message)


def _kill_strays(left: list[Process], tenants: dict[int, str], table: ProcessTable, cgroups: Cgroups) -> None:
    """What the two atomic kills did not reach, cgroup by cgroup: freeze, look again, kill, thaw."""
    by_group: dict[str, list[Process]] = defaultdict(list)
    for process in left:
        by_group[process.cgroup].append(process)
    for group, members in by_group.items():
        frozen = cgroups.freeze(group, frozen=True)
        try:
            hits = [process for process in table.of(tenants) if process.cgroup == group] if frozen else members
            for process in hits:
                table.kill(process.pid)
        finally:
            if frozen:
                cgroups.freeze(group, frozen=False)


def _note(processes: list[Process], results: dict[int, Severed], seen: set[tuple[int, int]]) -> None:
    for process in processes:
        key = (process.tenant_uid, process.pid)
        if key not in seen:
            seen.add(key)
            results[process.tenant_uid].saw(process)
