"""A whole Debian host to test on: systemd, logind, journald, sshd, sudo; booted in half a second, always taken down."""

import atexit
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.hosts import cache, cleanup, layer, root, snapshot, ssh, tools
from tests.hosts.cgroup import Cgroup
from tests.hosts.errors import HostFailed, HostUnavailable
from tests.hosts.shell import Shell
from tests.hosts.supervisor import Spec

Prepare = Callable[[Path], None]

DEFAULT_PIDS_MAX = 2048
_SSHD_SESSION = "usr/lib/openssh/sshd-session"
_REPOSITORY = Path(__file__).resolve().parents[2]
_TAKE_DOWN_S = 30.0
_live: "set[Host]" = set()
_swept = threading.Lock(), threading.Event()


class Host(Shell, ssh.Network):
    """One host. Made by `boot`; a context manager, with `stop()`; it ends with this process at the latest."""

    kind: ClassVar[str] = "nspawn"
    snapshot_paths: ClassVar[tuple[str, ...]] = snapshot.DEFAULT_PATHS
    programs: ClassVar[tuple[str, ...]] = ("systemd-nspawn", "ip", "nsenter", "ssh", "ssh-keygen")

    def __init__(self, name: str | None, suite: str, pids_max: int, boot_timeout: float, lower: Path) -> None:
        # What all of this host is called on the machine: folder, lock, cgroup, mounts.
        self.id = cleanup.PREFIX + secrets.token_hex(6)
        self.name = name or self.id
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", self.name):
            raise ValueError(f"not a host name: {self.name!r}")
        self.suite = suite
        self._folder = cache.run_folder() / self.id
        self._leader = 0
        self._address = ""
        self.interface = ""  # the machine's end of the veth pair
        self.root = self._folder / "root"
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - read when the supervisor has ended
        self._control, theirs = socket.socketpair()
        self._answers = self._control.makefile("r")
        lock = cache.lock(cache.run_folder() / f"{self.id}.lock", wait=False)
        if lock is None:
            raise HostFailed(f"another process holds the lock of {self.id}")
        with theirs:
            # The lock's descriptor goes to the supervisor: it is free again at the moment that dies, and not before.
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "tests.hosts.supervisor"],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=self._stderr, pass_fds=(lock,),
                cwd=_REPOSITORY, start_new_session=True,
            )  # fmt: skip
        os.close(lock)
        spec = Spec(self.kind, self.id, self.name, str(lower), str(self._folder.parent), os.getpid(), pids_max, boot_timeout)
        self._control.sendall(json.dumps(asdict(spec)).encode() + b"\n")

    @classmethod
    def boot(
        cls,
        name: str | None = None,
        suite: str | None = None,
        prepare: Prepare | None = None,
        pids_max: int = DEFAULT_PIDS_MAX,
        boot_timeout: float = 30.0,
        packages: Sequence[str] = (),
    ) -> Self:
        """A host that answers ssh. `name` is its hostname; `prepare` is called on its file tree before it boots.

        `suite` is the Debian it runs (default: `root.chosen`); `packages` are Debian's, added to what the root has (see `layer`).

        Raises:
            HostUnavailable: this machine cannot run it.
            HostFailed: it did not come up.
            BuildFailed: there was no root of that suite yet, and it could not be built.
        """
        if os.geteuid() != 0:
            raise HostUnavailable("test hosts need root")
        tools.need(*cls.programs)
        _sweep_once()
        suite = suite or root.chosen()
        lower = layer.ensure(packages, suite) if packages else cls._lower(suite)
        host = cls(name, suite, pids_max, boot_timeout, lower)
        _live.add(host)
        try:
            made = host._answer()
            host._address, host.interface = made["host_address"], made["interface"]
            host._identify()
            if prepare is not None:
                prepare(host.root)
            ssh.write_known_hosts(host.known_hosts, host.address, host.root)
            host._start_up(boot_timeout)
        except BaseException:
            host.stop()
            raise
        return host

    @classmethod
    def boot_many(cls, count: int, **options: Any) -> list[Self]:
        """Boot `count` hosts side by side, with the options of `boot`. If one fails, all are stopped."""
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(cls.boot, **options) for _ in range(count)]
        failures = [failure for future in futures if (failure := future.exception())]
        hosts = [future.result() for future in futures if not future.exception()]
        if failures:
            for host in hosts:
                host.stop()
            raise failures[0]
        return hosts

    @property
    def leader(self) -> int:
        """The process id, as this machine sees it, of the host's PID 1. Raises HostFailed when it is not running."""
        if not self._leader:
            raise HostFailed(f"host {self.name} is not running")
        return self._leader

    @property
    def address(self) -> str:
        """The host's IPv4 address."""
        return self._address

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file with this host's keys and no others."""
        return self._folder / "known_hosts"

    @property
    def running(self) -> bool:
        """Whether the host's PID 1 is there."""
        return self._leader != 0 and Path("/proc", str(self._leader)).is_dir()

    def snapshot(self, paths: Sequence[str] = ()) -> snapshot.Snapshot:
        """All below `paths` (default: `snapshot_paths`) in the host, with hashes; what does not exist is left out."""
        paths = paths or self.snapshot_paths
        return snapshot.parse(self.run(["python3", "-I", "-c", snapshot.SCRIPT, *paths], timeout=60).stdout)

    def reboot(self, clean: bool = True, timeout: float = 30.0) -> None:
        """End all processes and boot again on the same files: by a shutdown, or (not `clean`) as when the power is cut.

        What was in memory only (/run, /tmp) is gone. Files are as the kernel has them: nothing unwritten is lost.
        """
        self._leader = 0
        self._ask("halt" if clean else "kill")
        self._start_up(timeout)

    def stop(self) -> None:
        """Take the host down and wait until nothing of it is left. Harmless when it is down already.

        Raises:
            HostFailed: something of it could not be removed.
        """
        if self not in _live:
            return
        _live.discard(self)
        self._leader = 0
        self._answers.close()
        self._control.close()
        try:
            self._supervisor.wait(_TAKE_DOWN_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
            cleanup.sweep()
        left = self._complaint()
        self._stderr.close()
        if left:
            raise HostFailed(f"taking down {self.id}: {left}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def _lower(cls, suite: str) -> Path:
        return root.ensure(suite)

    def _identify(self) -> None:
        """Give the tree a name and an identity of its own, as an installer would."""
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.name}\n")
        (etc / "machine-id").write_text(f"{secrets.token_hex(16)}\n")
        if (self.root / _SSHD_SESSION).exists():
            # OpenSSH 9.8, which split sshd in two, also shuts out an address after a few refused logins, such as tests make.
            (etc / "ssh/sshd_config.d/99-test-host.conf").write_text("PerSourcePenalties no\n")

    def _start_up(self, timeout: float) -> None:
        self._leader = int(self._ask("boot")["leader"])
        if not tools.wait_until(self._listens, timeout):
            raise HostFailed(f"no sshd listens on {self.name} after {timeout} s")

    def _listens(self) -> bool:
        # Looked up, not tried: a connection that says nothing would be an error in the host's journal.
        table = Path(f"/proc/{self._leader}/net/tcp").read_text().splitlines()[1:]
        return any(fields[1].endswith(":0016") and fields[3] == "0A" for fields in map(str.split, table))

    def _ask(self, command: str) -> dict[str, Any]:
        self._control.sendall(command.encode() + b"\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise HostFailed(f"the supervisor of {self.id} ended: {self._complaint() or 'it says nothing'}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise (HostUnavailable if answer["unavailable"] else HostFailed)(answer["error"])
        return answer

    def _complaint(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip()

    def _leaf(self, number: int) -> tuple[Path | None, list[Path]]:
        cgroup = Cgroup.named(self.id)
        # Named like a unit's, so that systemd's own tools can parse it; it is none, so systemd leaves it alone.
        leaf = cgroup.folder / f"payload/system.slice/outside-{os.getpid()}-{number}.scope"
        leaf.mkdir()
        entrances = [leaf / "cgroup.procs"]
        if cgroup.pids != cgroup.folder:
            entrances.append(cgroup.pids / "cgroup.procs")
        return leaf, entrances


def _sweep_once() -> None:
    """Take down what killed runs left: once in a process, before its first host."""
    lock, done = _swept
    with lock:
        if not done.is_set():
            cleanup.sweep()
            done.set()


@atexit.register
def _stop_all() -> None:
    for host in list(_live):
        host.stop()
