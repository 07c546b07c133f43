"""Looking into a host from this machine, where nothing in it can hide: not in a namespace, a cgroup, a name or an environment."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import tools
from tests.hosts.cgroup import Cgroup
from tests.hosts.errors import HostUnavailable
from tests.hosts.machine import Host

_PROC = Path("/proc")


@dataclass(frozen=True)
class Seen:
    """One live process of a host. ``text``: its words and its environment; ``ids``: its four uids and its login uid."""

    pid: int
    name: str
    ids: frozenset[int]
    text: bytes
    cgroup: str

    def belongs(self, cookie: str, uid: int | None) -> bool:
        """Whether it carries the cookie, is (or ever was) this uid's, or lies in the uid's slice."""
        return cookie.encode() in self.text or (uid is not None and (uid in self.ids or f"/user-{uid}.slice" in self.cgroup))


def scan(host: Host) -> list[Seen]:
    """All that lives in the host now, as one walk finds it."""
    namespace = _link(host.leader)
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (seen := _look(int(entry.name), host.id, namespace)) is not None:
            found.append(seen)
    return found


@contextlib.contextmanager
def standing_still(host: Host) -> Iterator[None]:
    """The whole host is frozen meanwhile, so that nothing outruns the walk; where hosts have no cgroup it goes on."""
    try:
        folder = Cgroup.named(host.id).folder
    except HostUnavailable:
        yield
        return
    if not (folder / "cgroup.freeze").exists():
        yield
        return
    (folder / "cgroup.freeze").write_text("1")
    try:
        tools.wait_until(lambda: "frozen 1" in (folder / "cgroup.events").read_text(), 0.5, step=0.001)
        yield
    finally:
        (folder / "cgroup.freeze").write_text("0")


def _look(pid: int, host_id: str, namespace: str) -> Seen | None:
    try:
        cgroup = (_PROC / str(pid) / "cgroup").read_text(errors="replace")
        if f"/{host_id}/" not in f"{cgroup}/" and f"/{host_id}\n" not in cgroup and _link(pid) != namespace:
            return None
        fields = dict(line.partition(":\t")[::2] for line in (_PROC / str(pid) / "status").read_text(errors="replace").split("\n"))
        if fields.get("State", "Z")[0] in "ZX":
            return None
        loginuid = (_PROC / str(pid) / "loginuid").read_text()
        text = (_PROC / str(pid) / "cmdline").read_bytes() + b"\0" + (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    return Seen(pid, fields["Name"], frozenset(map(int, [*fields["Uid"].split(), loginuid])), text, cgroup)


def _link(pid: int) -> str:
    try:
        return str((_PROC / str(pid) / "ns/pid").readlink())
    except OSError:
        return ""
