"""What rows share: a booted host with Tidegate, and looking at its processes from outside, where that disturbs them least."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.frame.row import Run
from tests.host.scene import ALLOWED, ISSUER, Scene, set_up
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.hosts.ssh import make_key

PIDS_MAX = 8192
POLICY = f"""\
rules:
  - name: measured
    issuers: [{ISSUER}]
    max_duration: 12h
    recording: off
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{ALLOWED}"] }}
"""
_PROC = Path("/proc")
# As every admin has it who lets many in at once: by default sshd drops connections from the tenth waiting one on.
_MANY = "MaxStartups 400\nMaxSessions 400\nLoginGraceTime 60\n"


@dataclass(frozen=True, slots=True)
class Ground:
    """A host with tidegated running, a key of ours, a folder for what is made meanwhile."""

    scene: Scene
    key: Path
    folder: Path

    @property
    def host(self) -> Host:
        """The host."""
        return self.scene.host

    def inside(self, path: str) -> Path:
        """A path of the host, with what is mounted there."""
        return _PROC / str(self.host.leader) / "root" / path.lstrip("/")

    def daemon(self) -> int:
        """tidegated, by this machine's number."""
        return outer_pid(self.host, self.scene.pid())


@contextlib.contextmanager
def standing(
    run: Run,
    *,
    packages: Sequence[str] = (),
    policy: str = POLICY,
    also: Callable[[Path], None] = lambda _: None,
    pids_max: int = PIDS_MAX,
) -> Iterator[Ground]:
    """Booted, started, gone after the ``with``. ``also`` is done to the file tree before; versions are noted in ``run``."""

    def prepare(root: Path) -> None:
        install_tidegate(root)
        (root / "etc/ssh/sshd_config.d/10-many.conf").write_text(_MANY)
        also(root)

    with tempfile.TemporaryDirectory(prefix="tidegate-benchmark-") as name:
        folder = Path(name)
        key = make_key(folder / "key")
        with Host.boot(prepare=prepare, packages=packages, pids_max=pids_max) as host:
            scene = set_up(host, policy)
            note_versions(run, host, packages)
            yield Ground(scene, key, folder)


def note_versions(run: Run, host: Host, packages: Sequence[str] = ()) -> None:
    """Of what was measured, by the host's own package list."""
    for package in ("openssh-server", "systemd", *packages):
        asked = host.run(["dpkg-query", "-W", "-f", "${Version}", package], check=False)
        run.versions[package] = asked.stdout.strip()


def outer_pid(host: Host, pid: int) -> int:
    """This machine's number of a process of the host. Raises LookupError."""
    namespace = (_PROC / str(host.leader) / "ns/pid").readlink()
    for path in _PROC.iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                found = re.search(r"^NSpid:\t.*\b(\d+)$", (path / "status").read_text(), re.MULTILINE)
                if found and int(found[1]) == pid and (path / "ns/pid").readlink() == namespace:
                    return int(path.name)
    raise LookupError(f"no process {pid} in {host.name}")


def of_uids(host: Host, uids: Sequence[int]) -> list[int]:
    """The host's live processes of these owners, by this machine's numbers."""
    namespace, wanted, found = (_PROC / str(host.leader) / "ns/pid").readlink(), set(uids), []
    for path in _PROC.iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                ours = path.stat().st_uid in wanted and (path / "ns/pid").readlink() == namespace
                if ours and (path / "stat").read_bytes().rpartition(b") ")[2][:1] not in {b"Z", b"X"}:
                    found.append(int(path.name))
    return found


def of_unit(host: Host, unit: str) -> list[int]:
    """All processes of a unit of the host, by this machine's numbers."""
    shown = host.run(f"cat /sys/fs/cgroup$(systemctl show -p ControlGroup --value {unit})/cgroup.procs", check=False).stdout
    return [outer_pid(host, int(pid)) for pid in shown.split()]


def cpu_s(pids: Sequence[int]) -> float:
    """Seconds that these have run, all their threads, by the scheduler's own count (proc(5), schedstat)."""
    total = 0
    for task in _tasks(pids):
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def cpu_times(pid: int) -> tuple[float, float]:
    """Seconds in its own code and in the kernel (proc(5), stat; in steps of the kernel's clock tick)."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def woken_by_thread(pids: Sequence[int]) -> dict[str, int]:
    """How often each of their threads has gone to sleep by itself: once for each time that it was woken. By process and thread."""
    found: dict[str, int] = {}
    for task in _tasks(pids):
        with contextlib.suppress(OSError):
            count = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
            pid = int(task.parent.parent.name)
            command = (
                (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split("/")[-1].strip()
            )
            thread = "its main thread" if int(task.name) == pid else (task / "comm").read_text().strip()
            found[f"{command[:40]}, {thread} ({int(task.name) - pid})"] = int(count[1]) if count else 0
    return found


def _tasks(pids: Sequence[int]) -> list[Path]:
    """Their threads; a process that has ended meanwhile has none."""
    found: list[Path] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found += (_PROC / str(pid) / "task").iterdir()
    return found


def pss_kib(pids: Sequence[int]) -> int:
    """Their share of memory (proc(5), smaps_rollup)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss: +(\d+) kB", (_PROC / str(pid) / "smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total
