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
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.errors import HostError
from agent.host import command, killer

_UNSET_LOGINUID = 0xFFFFFFFF
_PROC_READ_MAX = 256 * 1024
_FORKED_HERE = 3  # so many uids are signalled from forks of the agent itself
# These say nothing about the process: taking them for "it is gone" would end a grant while its tenant still runs.
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_SSHD_TITLE = re.compile(rb"sshd(?:-session)?: ([a-z][a-z0-9-]{0,30})(?: \[(?:priv|net|postauth)\]|@[^\0]*)\s*\0?.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Process:
    """One live process, and why it counts as the tenant's (``uid``, ``loginuid``, ``sudo``, ``sshd``)."""

    pid: int
    uid: int
    name: str
    cgroup: str
    mark: str
    tenant_uid: int


class ProcessTable(Protocol):
    """The host's processes, as teardown needs them. Real below; faked in unit tests."""

    def of(self, tenants: dict[int, str]) -> list[Process]:
        """Every live process that belongs to one of these tenants (uid → login; an empty login names nobody).

        Zombies are dead. Raises HostError ``proc_unreadable`` when it can't know.
        """

    def kill(self, pid: int, tenants: dict[int, str]) -> None:
        """SIGKILL one process if it is still one of these tenants'; gone already is done. Raises HostError."""

    def kill_all_of(self, uids: Collection[int]) -> dict[int, str]:
        """SIGKILL every process each uid may signal, atomically, from a process that is that uid; returns uid → error."""


class ProcProcesses:
    """Linux's /proc (proc(5)). ``uid_first``..``uid_last`` is the only range :meth:`kill_all_of` accepts."""

    def __init__(self, uid_first: int, uid_last: int, proc: Path = Path("/proc")) -> None:
        self._range = range(uid_first, uid_last + 1)
        self._proc = proc

    def of(self, tenants: dict[int, str]) -> list[Process]:
        """See :class:`ProcessTable`."""
        own = os.getpid()
        return [found for pid in self._pids() if pid not in {1, own} and (found := self._classify(pid, tenants)) is not None]

    def kill(self, pid: int, tenants: dict[int, str]) -> None:
        """See :class:`ProcessTable`. Refuses pid 1 and this process.

        A fork bomb wraps the process numbers in seconds, so the number may be another's since the walk. The descriptor can't be:
        open it, look again at who has the number, signal the descriptor (pidfd_open(2)).
        """
        if pid <= 1 or pid == os.getpid():
            raise HostError("kill_refused", f"will not signal pid {pid}")
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError as error:
            raise HostError("kill_failed", f"pid {pid}: {error.strerror}") from error
        try:
            if self._classify(pid, tenants) is not None:
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
            descriptor = os.open(self._proc / str(pid) / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, _PROC_READ_MAX)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _NO_RESOURCES:
                raise HostError("proc_unreadable", f"{self._proc}/{pid}/{name}: {error.strerror}") from error
            return b""  # it has ended meanwhile


def _kill_in_helper(uids: Collection[int]) -> dict[int, str]:
    """uid → error of those that could not be signalled."""
    argv = [sys.executable, "-I", "-S", killer.__file__, *map(str, uids)]
    try:
        result = command.run(argv, timeout_s=10.0 + len(uids) / 10)
    except HostError as error:
        return dict.fromkeys(uids, str(error))
    failed = {int(word) for word in result.stdout.split() if word.isdigit()}
    return {uid: "could not be signalled as itself" for uid in uids if uid in failed or not result.ok}


def _parse_status(text: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Name and uids of one that lives. The kernel escapes only newlines in a name, so nothing else may end a line here."""
    fields: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        key, _, value = line.partition(b":\t")
        fields.setdefault(key, value)
    uids = tuple(int(word) for word in fields.get(b"Uid", b"").split())
    # A process whose first thread has ended while others go on shows as a zombie too.
    dead = fields.get(b"State", b"")[:1] in {b"Z", b"X"} and _number(fields.get(b"Threads", b"1")) <= 1
    return None if dead or not uids else (fields.get(b"Name", b"").decode(errors="backslashreplace"), uids)


def _number(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else _UNSET_LOGINUID


def _environment_value(environ: bytes, name: bytes) -> int:
    for entry in environ.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == name and value.isdigit() and len(value) <= 10:
            return int(value)
    return -1
