"""Which kind of host this machine can run, and the kind for where systemd-nspawn cannot boot one."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tests.hosts.cgroup import Cgroup
from tests.hosts.errors import HostError, HostUnavailable
from tests.hosts.machine import Host
from tests.hosts.snapshot import DEFAULT_PATHS

Kind = Literal["nspawn", "namespaces", "none"]


class NamespaceHost(Host):
    """A host of this machine's own files in private mount, pid, network, uts and ipc namespaces.

    All the machine's files are there, under overlays: nothing the host writes reaches them. It has its own /run and
    /tmp, and Debian's sshd configuration with new host keys; sshd and sudo are the machine's own programs. Not there:
    systemd, logind, journald, cron, user slices; and where the machine has no cgroups, a bound on the processes.
    """

    kind: ClassVar[str] = "namespaces"
    # Without /home and /root: here they are this machine's, of any size.
    snapshot_paths: ClassVar[tuple[str, ...]] = tuple(set(DEFAULT_PATHS) - {"/home", "/root"})
    programs: ClassVar[tuple[str, ...]] = ("ip", "nsenter", "ssh", "ssh-keygen", "sshd", "sudo")

    def journal(self, unit: str | None = None) -> str:
        """The log of its sshd, the only one kept here, whatever `unit`."""
        return self.read("/var/log/sshd.log").decode(errors="replace")

    @classmethod
    def _lower(cls, suite: str) -> Path:
        return Path("/")

    def _leaf(self, number: int) -> tuple[Path | None, list[Path]]:
        try:
            cgroup = Cgroup.named(self.id)
        except HostUnavailable:
            return None, []
        if not all(entrance.exists() for entrance in cgroup.entrances()):
            return None, []
        leaf = cgroup.folder / f"outside-{os.getpid()}-{number}"
        leaf.mkdir()
        return leaf, [leaf / "cgroup.procs", *([cgroup.pids / "cgroup.procs"] if cgroup.pids != cgroup.folder else [])]


@dataclass(frozen=True)
class Capability:
    """The best kind of host that works on this machine, and for what reason no better one does ("" for the best)."""

    kind: Kind
    reason: str

    def host_class(self) -> type[Host]:
        """The class to boot hosts of.

        Raises:
            HostUnavailable: none works here.
        """
        if self.kind == "none":
            raise HostUnavailable(self.reason)
        return NamespaceHost if self.kind == "namespaces" else Host


@functools.cache
def available() -> Capability:
    """What works here, found by trying it (so the first call may build the Debian root, saying so on stderr).

    `$TIDEGATE_TEST_HOSTS` set to `namespaces` or `none` keeps the better kinds from being tried.

    Raises:
        ValueError: the variable has another value.
    """
    classes: Sequence[tuple[Kind, type[Host]]] = (("nspawn", Host), ("namespaces", NamespaceHost))
    wanted = os.environ.get("TIDEGATE_TEST_HOSTS", "nspawn")
    if wanted not in ("nspawn", "namespaces", "none"):
        raise ValueError(f"TIDEGATE_TEST_HOSTS is {wanted!r}, not nspawn, namespaces or none")
    reasons = [] if wanted == "nspawn" else [f"TIDEGATE_TEST_HOSTS={wanted}"]
    for kind, host_class in classes:
        if wanted == "none" or (wanted == "namespaces" and kind == "nspawn"):
            continue
        try:
            host_class.boot().stop()
        except HostError as failure:
            reasons.append(f"{kind}: {str(failure).splitlines()[0]}")
        else:
            return Capability(kind, "; ".join(reasons))
    return Capability("none", "; ".join(reasons))
