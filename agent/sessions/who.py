"""Who is in now, as the host itself knows it: logind's session scopes, and sshd's processes where there are none.

What a tenant can make up (a command's words, its terminal's contents) is shown and never acted on: a session is ended by its
cgroup or its process tree, both of which the kernel keeps.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import HostError, TidegateError
from agent.host import command
from agent.host.cgroups import Cgroups
from agent.host.clock import NS, Clock
from agent.host.processes import ProcessTable
from agent.model.text import one_line

_SCOPE = re.compile(r"session-([A-Za-z0-9]+)\.scope")
_WAITER = b"tidegate-session\0"
_SSHD = re.compile(rb"sshd(?:-session)?: ([a-z][a-z0-9-]{0,30})(?:@([^\0 ]*))?(?: \[(?:priv|net|postauth)\])?\s*\0?.*", re.DOTALL)
_ROOTS_HALF = (b"[priv]", b"[postauth]")  # OpenSSH 10.6 says the second once somebody is in
_SHOWN = 8  # commands of one session that are named
_COMMAND_MAX = 200
_END_WITHIN_S = 5.0
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Session:
    """One login. ``id``: logind's, or ``p`` and sshd's process id. ``tty`` is empty where there is none; ``since_ns`` wall clock.

    ``pids`` are its processes when looked at; ``scope`` its cgroup, empty where it has none of its own.
    """

    id: str
    uid: int
    login: str
    remote: str
    tty: str
    since_ns: int
    commands: tuple[str, ...]
    pids: tuple[int, ...]
    scope: str


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    start: int  # clock ticks since boot
    words: bytes


class Sessions:
    """The live sessions of tenants on one host. ``remotes``: logind's session ids → where each came from."""

    def __init__(
        self,
        table: ProcessTable,
        cgroups: Cgroups,
        clock: Clock,
        *,
        proc: Path = Path("/proc"),
        remotes: Callable[[list[str]], dict[str, str]] | None = None,
    ) -> None:
        self._table = table
        self._cgroups = cgroups
        self._clock = clock
        self._proc = proc
        self._remotes = remotes or _remote_hosts

    def of(self, tenants: dict[int, str]) -> list[Session]:
        """Every session of these tenants (uid → login), oldest first. Raises HostError ``proc_unreadable``."""
        everything = {process.pid: process for pid in self._pids() if (process := self._process(pid)) is not None}
        found: list[tuple[str, int, str, list[int]]] = []
        inside: set[int] = set()
        for uid in tenants:
            for scope in self._cgroups.children(self._cgroups.user_slice(uid)):
                name = _SCOPE.fullmatch(scope.rpartition("/")[2])
                pids = self._cgroups.pids(scope) if name else []
                inside.update(pids)
                if name and pids:
                    found.append((name[1], uid, scope, pids))
        by_parent: dict[int, list[int]] = defaultdict(list)
        for process in everything.values():
            by_parent[process.parent].append(process.pid)
        ours = self._table.of(tenants)
        sshd = {(process.pid, process.tenant_uid) for process in ours if process.mark == "sshd"}
        in_person = {process.pid for process in ours if process.mark == "uid"}
        for process in everything.values():
            uid_of = {login: uid for uid, login in tenants.items()}
            root_half = any(word in process.words for word in _ROOTS_HALF) and process.pid not in inside
            title = _SSHD.fullmatch(process.words) if root_half else None
            whose = uid_of.get(title[1].decode()) if title else None
            if whose is not None and (process.pid, whose) in sshd:  # by whom it runs as, not by its words alone
                tree = _tree(process.pid, by_parent)
                if in_person.intersection(tree):  # else somebody is only knocking, under that name
                    found.append((f"p{process.pid}", whose, "", tree))
        remotes = self._remotes([ident for ident, _, scope, _ in found if scope])
        sessions = [self._session(*each, everything, tenants, remotes) for each in found]
        return sorted(sessions, key=lambda session: (session.since_ns, session.id))

    def end(self, session: Session) -> list[int]:
        """Kill all of one session and nothing else of the tenant; returns the pids that would not die in five seconds."""
        give_up = time.monotonic() + _END_WITHIN_S
        tenants = {session.uid: session.login}
        left = list(session.pids)
        while left and time.monotonic() < give_up:
            if not (session.scope and self._cgroups.kill(session.scope)):
                for process in self._table.of(tenants):
                    if process.pid in left:
                        self._table.kill(process, tenants)
            time.sleep(_PAUSE_S)
            left = self._left(session)
        return left

    def _left(self, session: Session) -> list[int]:
        if session.scope:
            return self._cgroups.pids(session.scope) if self._cgroups.populated(session.scope) else []
        alive = {process.pid: process for pid in self._pids() if (process := self._process(pid)) is not None}
        ours = {process.pid for process in self._table.of({session.uid: session.login})}
        by_parent: dict[int, list[int]] = defaultdict(list)
        for process in alive.values():
            by_parent[process.parent].append(process.pid)
        grown = {pid for known in session.pids if known in alive for pid in _tree(known, by_parent)}
        return sorted(grown & ours)

    def _session(
        self,
        ident: str,
        uid: int,
        scope: str,
        pids: list[int],
        everything: dict[int, _Process],
        tenants: dict[int, str],
        remotes: dict[str, str],
    ) -> Session:
        members = sorted((everything[pid] for pid in pids if pid in everything), key=lambda process: (process.start, process.pid))
        sshd = {process.pid for process in members if _SSHD.fullmatch(process.words)}
        titles = [
            title[2].decode(errors="replace") for process in members if (title := _SSHD.fullmatch(process.words)) and title[2]
        ]
        tty = next((name for name in titles if name != "notty"), "")
        asked = _below_waiters(
            [process for process in members if process.pid not in sshd and (process.parent in sshd or not sshd)], members
        )
        commands = tuple(one_line(_words(process.words), _COMMAND_MAX) for process in asked[:_SHOWN])
        start = members[0].start if members else 0
        since_ns = self._clock.wall_ns() - self._clock.boot_ns() + start * NS // os.sysconf("SC_CLK_TCK")
        remote = one_line(remotes.get(ident, ""), 100)
        return Session(ident, uid, tenants[uid], remote, one_line(tty, 64), since_ns, commands, tuple(pids), scope)

    def _pids(self) -> list[int]:
        try:
            return [int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit()]
        except OSError as error:
            raise HostError("proc_unreadable", f"{self._proc}: {error.strerror}") from error

    def _process(self, pid: int) -> _Process | None:
        try:
            stat = (self._proc / str(pid) / "stat").read_bytes()
            words = (self._proc / str(pid) / "cmdline").read_bytes()[:4096]
        except OSError:
            return None  # it has ended meanwhile
        after = stat.rpartition(b")")[2].split()  # the name may hold anything, a ')' too
        return None if len(after) < 20 or after[0] in {b"Z", b"X"} else _Process(pid, int(after[1]), int(after[19]), words)


def _below_waiters(asked: list[_Process], members: list[_Process]) -> list[_Process]:
    """On a recorded terminal sshd's child is a waiter (agent/sessions/waiter.sh): its shell instead, where it has one."""
    found: list[_Process] = []
    for process in asked:
        below = [each for each in members if each.parent == process.pid] if process.words.startswith(_WAITER) else []
        found += below or [process]
    return found


def _tree(pid: int, by_parent: dict[int, list[int]]) -> list[int]:
    found, queue = [pid], [pid]
    while queue:
        for child in by_parent.get(queue.pop(), ()):
            if child not in found:
                found.append(child)
                queue.append(child)
    return found


def _words(cmdline: bytes) -> str:
    return cmdline.rstrip(b"\0").replace(b"\0", b" ").decode(errors="backslashreplace") or "-"


def _remote_hosts(idents: list[str]) -> dict[str, str]:
    """Session id → where sshd says it came from, by logind."""
    if not idents or command.find_tool("loginctl") is None:
        return {}
    try:
        said = command.run(["loginctl", "show-session", *idents, "--property=Id", "--property=RemoteHost"], timeout_s=5.0).stdout
    except TidegateError:
        return {}
    found: dict[str, str] = {}
    for block in said.split("\n\n"):
        members = dict(line.partition("=")[::2] for line in block.splitlines())
        found[members.get("Id", "")] = members.get("RemoteHost", "")
    return found
