"""Process tables, cgroups, enforcers and writers made of nothing, for the tests of expiry."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, cast

from agent.errors import HostError
from agent.expiry.deadline import Deadline
from agent.expiry.live import LiveGrant
from agent.host.cgroups import Cgroups
from agent.host.clock import NS, FakeClock
from agent.host.fake import FakeHost
from agent.host.lent import Lent
from agent.host.processes import Process
from agent.journal import GrantRecord, GrantState
from agent.model import Enforcer, Phase, Residue, Step
from tests.unit.journal_kit import step

ALICE, BOB = 70001, 70002


def process(pid: int, uid: int = ALICE, *, mark: str = "uid", cgroup: str = "", name: str = "sh") -> Process:
    """One process of a tenant, in its slice unless said otherwise."""
    return Process(pid, uid if mark == "uid" else 0, name, cgroup or f"/user.slice/user-{uid}.slice/s.scope", mark, uid)


class FakeCgroups(Cgroups):
    """Kills in the table, remembers what is frozen, and can be told what is populated."""

    def __init__(self, table: "FakeTable") -> None:
        super().__init__(None)
        self.table = table
        self.stuck: set[str] = set()
        self.frozen_now: set[str] = set()
        self.ever_frozen: list[str] = []
        self.works = True

    def kill(self, group: str) -> bool:
        if self.works:
            self.table.end(lambda found: found.cgroup.startswith(group + "/"))
        return self.works

    def pids(self, group: str, most: int = 64) -> list[int]:
        del most
        return [pid for pid, found in self.table.alive.items() if found.cgroup.startswith(group + "/")]

    @contextlib.contextmanager
    def frozen(self, group: str) -> Iterator[bool]:
        self.frozen_now.add(group)
        self.ever_frozen.append(group)
        try:
            yield True
        finally:
            self.frozen_now.discard(group)

    def populated(self, group: str) -> bool:
        return group in self.stuck or any(found.cgroup.startswith(group + "/") for found in self.table.alive.values())


@dataclass
class FakeTable:
    """Processes in a dict. ``forks``: pids that leave a child behind when killed one by one, so many times more."""

    alive: dict[int, Process] = field(default_factory=dict)
    immortal: set[int] = field(default_factory=set)
    unreachable: set[int] = field(default_factory=set)  # by kill_all_of
    forks: dict[int, int] = field(default_factory=dict)
    knocking: int | None = None  # a login that somebody goes on trying from the network
    walks: int = 0
    looked_at: list[int] = field(default_factory=list)  # one by one, by number
    fail_looks: bool = False
    before_signals: Callable[[], None] = lambda: None
    left_out: list[set[int]] = field(default_factory=list)  # of each walk
    fail_walks: set[int] = field(default_factory=set)
    error: Exception = field(default_factory=lambda: HostError("proc_unreadable", "no descriptor left"))
    fail_kill: dict[int, Exception] = field(default_factory=dict)
    fail_all: dict[int, str] = field(default_factory=dict)
    helper_error: Exception | None = None
    cgroups: FakeCgroups | None = None
    number: int = 100  # given out last
    churn: int = 0  # processes that somebody starts during each walk
    unseen: set[int] = field(default_factory=set)  # pids that run ahead of the walk

    @classmethod
    def of_processes(cls, *found: Process) -> "FakeTable":
        return cls({each.pid: each for each in found})

    def of(self, tenants: dict[int, str], lent: Sequence[Lent] = (), without: Collection[int] = ()) -> list[Process]:
        self.walks += 1
        self.left_out.append(set(without))
        if self.walks in self.fail_walks or -1 in self.fail_walks:
            raise self.error
        if self.knocking is not None:
            pid = 100_000 + self.walks
            self.alive[pid] = process(pid, self.knocking, mark="sshd", cgroup="/system.slice/ssh.service")
        self.number += self.churn
        uids = {*tenants, *(each.uid for each in lent)}
        return [each for each in self.alive.values() if each.tenant_uid in uids and each.pid not in {*self.unseen, *without}]

    def among(self, pids: Sequence[int], tenants: dict[int, str]) -> list[Process]:
        if self.fail_looks or -1 in self.fail_walks:
            raise self.error
        self.looked_at += pids
        return [self.alive[pid] for pid in pids if pid in self.alive and self.alive[pid].tenant_uid in tenants]

    def newest(self) -> int:
        return self.number

    def kill(self, target: Process, tenants: dict[int, str]) -> None:
        del tenants
        pid = target.pid
        if pid in self.fail_kill:
            raise self.fail_kill[pid]
        found = self.alive.get(pid)
        if found is None:
            return
        frozen = self.cgroups is not None and found.cgroup in self.cgroups.frozen_now
        if self.forks.get(pid, 0) and not frozen:
            child = max(self.alive) + 1
            self.alive[child] = process(child, found.tenant_uid, mark=found.mark, cgroup=found.cgroup)
            self.forks[child] = self.forks.pop(pid) - 1
            self.unreachable.add(child)
        self.end(lambda each: each.pid == pid)

    def kill_all_of(self, uids: Collection[int]) -> dict[int, str]:
        self.before_signals()
        if self.helper_error:
            raise self.helper_error
        self.end(lambda each: each.uid in uids and each.uid not in self.fail_all and each.pid not in self.unreachable)
        return {uid: error for uid, error in self.fail_all.items() if uid in uids}

    def end(self, test: Callable[[Process], bool]) -> None:
        for pid in [pid for pid, each in self.alive.items() if test(each) and pid not in self.immortal]:
            del self.alive[pid]


@dataclass
class FakeEnforcer:
    """Notes what it does; fails by target."""

    type: ClassVar[str] = "fake"
    done: list[str] = field(default_factory=list)
    fail: dict[str, Exception] = field(default_factory=dict)
    residues: list[Residue] = field(default_factory=list)
    residue_error: Exception | None = None
    on_revert: Callable[[Step], None] = lambda _: None

    def apply(self, step: Step, writer: object) -> None:
        del writer
        if step.target in self.fail:
            raise self.fail[step.target]
        self.done.append(f"+{step.target}")

    def revert(self, step: Step, writer: object) -> None:
        del writer
        self.on_revert(step)
        if step.target in self.fail:
            raise self.fail[step.target]
        self.done.append(f"-{step.target}")

    def found(self, reader: object) -> Sequence[Step]:
        del reader
        return []

    def residue(self, steps: Sequence[Step], reader: object) -> Sequence[Residue]:
        del steps, reader
        if self.residue_error:
            raise self.residue_error
        return self.residues


def enforcers(fake: FakeEnforcer) -> Mapping[str, Enforcer]:
    """A registry of one."""
    return {"fake": cast(Enforcer, fake)}


@dataclass
class Host(FakeHost):
    """The fake host, with at jobs and set-group-id files."""

    at_jobs: set[tuple[int, int]] = field(default_factory=set)  # (uid, gid)
    at_error: Exception | None = None

    setgid: dict[str, int] = field(default_factory=dict)  # path → gid

    def disarm_group(self, uid: int, gids: Collection[int], since_ns: int) -> list[str]:
        del uid, since_ns
        found = [path for path, gid in self.setgid.items() if gid in gids]
        return [path for path in found if self.setgid.pop(path)]

    def drop_at_jobs(self, uid: int, gids: Collection[int] | None = None) -> int:
        if self.at_error:
            raise self.at_error
        found = {job for job in self.at_jobs if job[0] == uid and (gids is None or job[1] in gids)}
        self.at_jobs -= found
        return len(found)


def live(
    clock: FakeClock,
    grant_id: int = 1,
    *,
    uids: dict[str, int] | None = None,
    lasts_s: int = 600,
    state: GrantState = GrantState.OPEN,
) -> LiveGrant:
    """A grant with a CLOSE step ``t1`` and a REMOVE step ``t0``."""
    now_s = clock.wall_ns() // NS
    made = {"jit-alice": ALICE} if uids is None else uids
    deadline = Deadline.starting_now(now_s + lasts_s, clock)
    record = GrantRecord(
        *(grant_id, f"g-{grant_id}", "https://cp", "alice@example.com", state, b"token", "d" * 64, now_s, now_s + lasts_s),
        *("why", "T-1", "summary", "rule", clock.wall_ns(), deadline.boot_id, deadline.boot_ns),
        uids=made,
        logins=tuple(made),
    )
    found = LiveGrant(record, deadline, state, [(0, step(0, Phase.REMOVE)), (1, step(1, Phase.CLOSE))], dict(made))
    found.opened_ns = clock.wall_ns()
    return found


PATHS = (Path("/var/lib/systemd/linger"), Path("/var/spool/cron/crontabs"))
