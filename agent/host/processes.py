"""Finding and ending every process of a tenant.

Walking /proc and signalling loses against a process that forks and exits; only ``cgroup.kill`` and ``kill(-1)`` as the uid
itself are atomic (kill(2)). The walk is for what those two can't see: root shells under sudo, processes that were moved to
another cgroup, sshd's own privileged half of a session.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.errors import HostError
from agent.host import command, killer, setid
from agent.host.lent import Lent, Look, Row, holders

_UNSET_LOGINUID = 0xFFFFFFFF
_PROC_READ_MAX = 256 * 1024
_TICKS = os.sysconf("SC_CLK_TCK")
_FORKED_HERE = 3  # so many uids are signalled from forks of the agent itself
# These say nothing about the process: taking them for "it is gone" would end a grant while its tenant still runs.
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_SSHD_TITLE = re.compile(rb"sshd(?:-session)?: ([a-z][a-z0-9-]{0,30})(?: \[(?:priv|net|postauth)\]|@[^\0]*)\s*\0?.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Process:
    """One live process, and why it counts as the tenant's: ``uid``, ``loginuid``, ``sudo``, ``sshd``.

    Or as what a grant lent (agent.host.lent): ``group``, ``rule``; then ``tenant_uid`` is the login's that it was lent to, and
    ``started_ns`` (boot clock) tells the process from a later one of its number.
    """

    pid: int
    uid: int
    name: str
    cgroup: str
    mark: str
    tenant_uid: int
    started_ns: int = 0


class ProcessTable(Protocol):
    """The host's processes, as teardown needs them. Real below; faked in unit tests."""

    def of(self, tenants: dict[int, str], lent: Sequence[Lent] = (), without: Collection[int] = ()) -> list[Process]:
        """Every live process that belongs to one of these tenants (uid → login; an empty login names nobody), or holds what
        was lent. ``without``: pids that need not be looked at.

        Zombies are dead. Raises HostError ``proc_unreadable`` when it can't know.
        """

    def among(self, pids: Sequence[int], tenants: dict[int, str]) -> list[Process]:
        """Those of these pids that live and are a tenant's; nothing else is looked at. Raises as :meth:`of`."""

    def newest(self) -> int:
        """The number given out last. A walk before and after which it is the same has seen everything that lives: what outruns
        a walk has to fork. -1 when it can't be known.
        """

    def kill(self, process: Process, tenants: dict[int, str]) -> None:
        """SIGKILL one process if it is still what it was; gone already is done. Raises HostError.

        The tenants' program that it was started from loses its set-id bits: nobody else becomes the tenant by it again.
        """

    def kill_all_of(self, uids: Collection[int]) -> dict[int, str]:
        """SIGKILL every process each uid may signal, atomically, from a process that is that uid; returns uid → error."""


class ProcProcesses:
    """Linux's /proc (proc(5)). ``uid_first``..``uid_last`` is the only range :meth:`kill_all_of` accepts."""

    def __init__(self, uid_first: int, uid_last: int, proc: Path = Path("/proc")) -> None:
        self._range = range(uid_first, uid_last + 1)
        self._proc = proc
        self._root = str(proc)  # a walk reads some hundred files: joining a Path costs as much as reading one

    def of(self, tenants: dict[int, str], lent: Sequence[Lent] = (), without: Collection[int] = ()) -> list[Process]:
        """See :class:`ProcessTable`."""
        spared = {1, os.getpid(), *without}
        pids = [pid for pid in self._pids() if pid not in spared]
        found = self.among(pids, tenants) if tenants else []
        return found + self._holders(pids, lent, {each.pid for each in found}) if lent else found

    def among(self, pids: Sequence[int], tenants: dict[int, str]) -> list[Process]:
        """See :class:`ProcessTable`."""
        return [each for pid in pids if (each := self._classify(pid, tenants)) is not None]

    def newest(self) -> int:
        """See :class:`ProcessTable`. Of this process's pid namespace, and those inside it (proc(5), ``loadavg``)."""
        try:
            return int((self._proc / "loadavg").read_bytes().split()[-1])
        except (OSError, ValueError, IndexError):
            return -1

    def kill(self, process: Process, tenants: dict[int, str]) -> None:
        """See :class:`ProcessTable`. Refuses pid 1 and this process.

        A fork bomb wraps the process numbers in seconds, so the number may be another's since the walk. The descriptor can't be:
        open it, look again at who has the number, signal the descriptor (pidfd_open(2)).
        """
        pid = process.pid
        if pid <= 1 or pid == os.getpid():
            raise HostError("kill_refused", f"will not signal pid {pid}")
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError as error:
            raise HostError("kill_failed", f"pid {pid}: {error.strerror}") from error
        try:
            if self._is_still(process, tenants):
                if process.mark == "uid":
                    setid.disarm_program(pid, tenants, self._proc)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return
        except OSError as error:
            raise HostError("kill_failed", f"pid {pid}: {error.strerror}") from error
        finally:
            os.close(handle)

    def kill_all_of(self, uids: Collection[int]) -> dict[int, str]:
        """See :class:`ProcessTable`. uid 0 and anything outside the tenants' range is refused before anything is started.

        A fork of the whole agent costs about 4 ms, an interpreter with nothing in it 10 ms and 0.7 ms for each fork of its
        own: many uids are handed to one of those (agent.host.killer).
        """
        refused = {uid: "outside the tenants' range, not signalled" for uid in uids if uid not in self._range or uid == 0}
        wanted = [uid for uid in uids if uid not in refused]
        if len(wanted) > _FORKED_HERE:
            return refused | _kill_in_helper(wanted)
        return refused | {uid: error for uid in wanted if (error := killer.kill_as(uid))}

    def _pids(self) -> Iterator[int]:
        try:
            names = os.listdir(self._proc)  # noqa: PTH208  # an iterdir of Paths costs twice as much here
        except OSError as error:
            raise HostError("proc_unreadable", f"{self._proc}: {error.strerror}") from error
        return (int(name) for name in names if name.isdigit())

    def _classify(self, pid: int, tenants: dict[int, str]) -> Process | None:
        status = _parse_status(self._read(pid, "status"))
        if status is None:
            return None
        name, uids = status
        mark, tenant = self._mark(pid, uids, tenants)
        if mark is None:
            return None
        return Process(pid, uids[0], name, self._cgroup(pid), mark, tenant)

    def _is_still(self, process: Process, tenants: dict[int, str]) -> bool:
        if process.mark in {"group", "rule"}:  # by what is around it, which may be gone by now
            row = self._row(process.pid)
            return row is not None and row.started_ns == process.started_ns
        return self._classify(process.pid, tenants) is not None

    def _holders(self, pids: Sequence[int], lent: Sequence[Lent], known: Collection[int]) -> list[Process]:
        rows = {pid: row for pid in pids if (row := self._row(pid)) is not None}
        found = holders(rows, lent, Look(self._argv, self._variable))
        return [
            Process(pid, rows[pid].uids[0], rows[pid].name, self._cgroup(pid), mark, uid, rows[pid].started_ns)
            for pid, (mark, uid) in found.items()
            if pid not in known
        ]

    def _row(self, pid: int) -> Row | None:
        status = self._read(pid, "status")
        uids, gids = _numbers(_field(status, b"Uid")), _numbers(_field(status, b"Gid"))
        if _is_dead(status) or not uids:
            return None
        stat = self._read(pid, "stat").rpartition(b")")[2].split()
        started_ns = int(stat[19]) * 1_000_000_000 // _TICKS if len(stat) > 19 else 0
        return Row(
            pid,
            _number(_field(status, b"PPid")),
            _name(status),
            uids,
            frozenset((*gids, *_numbers(_field(status, b"Groups")))),
            _number(self._read(pid, "loginuid")),
            started_ns,
        )

    def _argv(self, pid: int) -> list[str]:
        return [os.fsdecode(word) for word in self._read(pid, "cmdline").rstrip(b"\0").split(b"\0")]

    def _variable(self, pid: int, name: str) -> str:
        for entry in self._read(pid, "environ").split(b"\0"):
            key, _, value = entry.partition(b"=")
            if key == name.encode():
                return os.fsdecode(value)
        return ""

    def _mark(self, pid: int, uids: tuple[int, ...], tenants: dict[int, str]) -> tuple[str | None, int]:
        for uid in uids:
            if uid in tenants:
                return "uid", uid
        loginuid = _number(self._read(pid, "loginuid"))
        if loginuid != _UNSET_LOGINUID and loginuid in tenants:
            return "loginuid", loginuid
        if uids[0] != 0:
            return None, -1
        sudo_uid = _environment_value(self._read(pid, "environ"), b"SUDO_UID")
        if sudo_uid in tenants:
            return "sudo", sudo_uid
        title = _SSHD_TITLE.fullmatch(self._read(pid, "cmdline"))
        if title:
            for uid, login in tenants.items():
                if login and title.group(1) == login.encode():
                    return "sshd", uid
        return None, -1

    def _cgroup(self, pid: int) -> str:
        for line in self._read(pid, "cgroup").split(b"\n"):
            if line.startswith(b"0::"):
                return line[3:].decode(errors="surrogateescape")  # as paths are: a tenant names its own cgroups
        return ""

    def _read(self, pid: int, name: str) -> bytes:
        try:
            descriptor = os.open(f"{self._root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, _PROC_READ_MAX)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _NO_RESOURCES:
                raise HostError("proc_unreadable", f"{self._proc}/{pid}/{name}: {error.strerror}") from error
            return b""  # it has ended meanwhile


def runs_as(uid: int) -> bool:
    """Whether any process belongs to that user now (proc(5): a process's folder is its effective user's). Never raises."""
    try:
        with os.scandir("/proc") as entries:
            return any(entry.name.isdigit() and _owner(entry) == uid for entry in entries)
    except OSError:
        return False


def _owner(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat(follow_symlinks=False).st_uid
    except OSError:
        return None  # it has ended meanwhile


def _kill_in_helper(uids: Collection[int]) -> dict[int, str]:
    """uid → error of those that could not be signalled."""
    argv = [sys.executable, "-I", "-S", killer.__file__, *map(str, uids)]
    try:
        result = command.run(argv, timeout_s=10.0 + len(uids) / 10)
    except HostError as error:
        if error.code == "tool_late":
            return dict.fromkeys(uids, str(error))
        return {uid: failure for uid in uids if (failure := killer.kill_as(uid))}  # it was not even started
    failed = {int(word) for word in result.stdout.split() if word.isdigit()}
    return {uid: "could not be signalled as itself" for uid in uids if uid in failed or not result.ok}


def _parse_status(text: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Name and uids of one that lives."""
    uids = _numbers(_field(text, b"Uid"))
    return None if _is_dead(text) or not uids else (_name(text), uids)


def _field(status: bytes, key: bytes) -> bytes:
    """The first line of that key. The kernel escapes newlines in a name, and only those: nothing else may end a line here.

    Asked for one by one: of some fifty lines a walk needs four, and taking all apart costs as much as reading them.
    """
    head = b"\n%s:\t" % key
    start = status.find(head) + len(head)
    if start < len(head):
        return b""
    end = status.find(b"\n", start)
    return status[start:] if end < 0 else status[start:end]


def _name(status: bytes) -> str:
    """It stands in the first line."""
    return _field(b"\n" + status, b"Name").decode(errors="backslashreplace")


def _is_dead(status: bytes) -> bool:
    """A process whose first thread has ended while others go on shows as a zombie too, and lives."""
    return _field(status, b"State")[:1] in {b"Z", b"X"} and _number(_field(status, b"Threads") or b"1") <= 1


def _numbers(text: bytes) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def _number(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else _UNSET_LOGINUID


def _environment_value(environ: bytes, name: bytes) -> int:
    if name not in environ:
        return -1
    for entry in environ.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == name and value.isdigit() and len(value) <= 10:
            return int(value)
    return -1
