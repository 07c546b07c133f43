"""Who is in, read from a made-up /proc and cgroup tree: scopes, sshd without them, what a tenant's own words can't do."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from agent.host.cgroups import Cgroups
from agent.host.clock import NS, FakeClock
from agent.host.lent import Lent
from agent.host.processes import Process
from agent.sessions.who import Session, Sessions

ALICE, BOB = 70001, 70002
TENANTS = {ALICE: "jit-alice", BOB: "jit-bob"}


class Table:
    """Says who is sshd's; kills by taking the process away."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.killed: list[int] = []

    def of(self, tenants: dict[int, str], lent: Sequence[Lent] = (), without: Collection[int] = ()) -> list[Process]:
        del lent, without
        return [
            Process(pid, 0, "x", "", mark, uid)
            for pid, (uid, mark) in self.world.owners.items()
            if uid in tenants and self.world.lives(pid)
        ]

    def among(self, pids: Sequence[int], tenants: dict[int, str]) -> list[Process]:
        raise AssertionError(f"not asked about {pids} of {tenants}")

    def newest(self) -> int:
        return -1

    def kill(self, process: Process, tenants: dict[int, str]) -> None:
        assert self.world.owners[process.pid][0] in tenants
        self.killed.append(process.pid)
        self.world.end(process.pid)

    def kill_all_of(self, uids: object) -> dict[int, str]:
        raise AssertionError(f"not all of {uids}")


class World:
    def __init__(self, folder: Path) -> None:
        self.proc, self.mount = folder / "proc", folder / "cgroup"
        self.proc.mkdir()
        self.mount.mkdir()
        self.owners: dict[int, tuple[int, str]] = {}
        self.table = Table(self)
        self.sessions = Sessions(self.table, Cgroups(self.mount), FakeClock(), proc=self.proc, remotes=lambda _: {"4": "10.1.2.3"})

    def process(
        self, pid: int, words: str, *, parent: int = 1, uid: int = ALICE, mark: str = "uid", scope: str = "", start: int = 500
    ) -> None:
        folder = self.proc / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a b) c) S {parent} {'0 ' * 17}{start} 0 0\n")
        (folder / "cmdline").write_bytes(words.replace(" -- ", "\0").encode())
        self.owners[pid] = (uid, mark)
        if scope:
            group = self.mount / f"user.slice/user-{uid}.slice/{scope}"
            group.mkdir(parents=True, exist_ok=True)
            procs = group / "cgroup.procs"
            procs.write_text((procs.read_text() if procs.exists() else "") + f"{pid}\n")

    def lives(self, pid: int) -> bool:
        return (self.proc / str(pid)).exists()

    def end(self, pid: int) -> None:
        for file in (self.proc / str(pid)).glob("*"):
            file.unlink()
        (self.proc / str(pid)).rmdir()

    def list(self) -> list[Session]:
        return self.sessions.of(TENANTS)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_below_a_waiter_is_what_counts(world: World) -> None:
    world.process(10, "sshd: jit-alice@pts/1", scope="session-4.scope")
    world.process(11, "tidegate-session -- waiter.sh -- /bin/bash", parent=10, scope="session-4.scope")
    world.process(12, "-bash", parent=11, scope="session-4.scope")
    assert world.list()[0].commands == ("-bash",)
    world.end(12)
    assert world.list()[0].commands == ("tidegate-session waiter.sh /bin/bash",), "nobody hides behind that name"


def test_a_scope_is_a_session(world: World) -> None:
    world.process(10, "sshd: jit-alice [priv]", mark="sshd", scope="session-4.scope", start=600)
    world.process(11, "sshd: jit-alice@pts/3", parent=10, scope="session-4.scope", start=601)
    world.process(12, "-bash", parent=11, scope="session-4.scope", start=602)
    world.process(13, "sleep -- 60", parent=12, scope="session-4.scope", start=603)
    world.process(20, "/lib/systemd/systemd -- --user", scope="user@70001.service")
    [found] = world.list()
    assert (found.id, found.login, found.remote, found.tty, found.commands) == ("4", "jit-alice", "10.1.2.3", "pts/3", ("-bash",))
    assert found.pids == (10, 11, 12, 13)
    clock = FakeClock()
    assert found.since_ns == clock.wall_ns() - clock.boot_ns() + 6 * NS


def test_a_command_without_terminal_has_none(world: World) -> None:
    world.process(10, "sshd: jit-alice [priv]", mark="sshd", scope="session-5.scope")
    world.process(11, "sshd: jit-alice@notty", parent=10, scope="session-5.scope")
    world.process(12, "bash -- -c -- sleep 9\x1b[2J", parent=11, scope="session-5.scope")
    [found] = world.list()
    assert (found.tty, found.remote, found.commands) == ("", "", ("bash -c sleep 9\\x1b[2J",))


@pytest.mark.parametrize("title", ["sshd: jit-bob [priv]", "sshd-session: jit-bob [priv]", "sshd-session: jit-bob [postauth]"])
def test_without_a_scope_it_is_the_tree_below_sshd(world: World, title: str) -> None:
    world.process(10, title, uid=BOB, mark="sshd")
    world.process(11, "sshd-session: jit-bob@pts/1", parent=10, uid=BOB)
    world.process(12, "-sh", parent=11, uid=BOB)
    world.process(30, "stranger", parent=1, uid=BOB)
    [found] = world.list()
    assert (found.id, found.uid, found.pids, found.scope) == ("p10", BOB, (10, 11, 12), "")
    assert world.sessions.end(found) == []
    assert (world.lives(12), world.lives(30)) == (False, True)


def test_whoever_only_says_that_it_is_sshd_is_not(world: World) -> None:
    world.process(10, "sshd: jit-bob [priv]", uid=ALICE, mark="uid")
    assert world.list() == []


def test_whoever_only_knocks_is_not_in(world: World) -> None:
    world.process(10, "sshd: jit-bob [priv]", uid=BOB, mark="sshd")
    world.process(11, "sshd: jit-bob [net]", parent=10, uid=BOB, mark="sshd")
    assert world.list() == []


def test_ending_one_ends_its_scope_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (4, 5):
        world.process(number * 10, "sshd: jit-alice [priv]", mark="sshd", scope=f"session-{number}.scope", start=number)
    killed: list[str] = []

    def kill(_self: Cgroups, group: str) -> bool:
        killed.append(group)
        world.end(int(group[-7]) * 10)
        (world.mount / group.lstrip("/") / "cgroup.procs").write_text("")
        return True

    monkeypatch.setattr(Cgroups, "kill", kill)
    first, second = world.list()
    assert world.sessions.end(first) == []
    assert killed == ["/user.slice/user-70001.slice/session-4.scope"]
    assert [found.id for found in world.list()] == ["5"] == [second.id]


def test_what_will_not_die_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.process(10, "sshd: jit-alice [priv]", mark="sshd", scope="session-4.scope")
    (world.mount / "user.slice/user-70001.slice/session-4.scope/cgroup.events").write_text("populated 1\n")
    monkeypatch.setattr(Cgroups, "kill", lambda _self, _group: True)
    monkeypatch.setattr("agent.sessions.who._END_WITHIN_S", 0.05)
    assert world.sessions.end(world.list()[0]) == [10]
